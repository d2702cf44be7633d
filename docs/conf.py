"""The settings of the documentation site. `make docs` builds it into docs/_build/html."""

import importlib.metadata
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "Toy-Diffusion"
author = "The Toy-Diffusion contributors"
version = release = importlib.metadata.version("toydiffusion")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "commands",
    "docstrings",
    "downloads",
    "links",
    "public_names",
    "root_files",
]
exclude_patterns = ["_build", "_ext"]

# Pages: MyST Markdown. Every code cell runs. An exception or a warning in one stops the build.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "smartquotes"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 240
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "warn"
nb_render_image_options = {"align": "center"}

# The reference comes from the docstrings.
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

# The site works from the file system, without any other host: equations as SVG by a copy of MathJax, and
# a search without summaries, since a page on disk cannot fetch the text of another.
_MATHJAX = next(
    file for file in importlib.metadata.files("sphinx-mathjax-offline") or () if file.name == "tex-svg.js"
)
mathjax_path = "tex-svg.js"
highlight_language = "text"
html_theme = "furo"
pygments_dark_style = "a11y-high-contrast-dark"
html_title = "Toy-Diffusion"
# The lab is one page; it goes beside the others as _static/index.html.
html_static_path = ["_static", str(_MATHJAX.locate()), "../toydiffusion/lab/page"]
html_css_files = ["site.css"]
html_show_search_summary = False
html_copy_source = False
html_domain_indices = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1d4ed8", "color-brand-content": "#1d4ed8"},
    "dark_css_variables": {"color-brand-primary": "#8ab4ff", "color-brand-content": "#8ab4ff"},
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
