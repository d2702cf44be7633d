"""The package as a whole: its names, and who may import whom."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

import toydiffusion

ROOT = Path(toydiffusion.__file__).parent

# A folder imports only from folders above it in this list.
LAYERS = [
    "types",
    "errors",
    "devices",
    "threads",
    "processes",
    "row_noise",
    "files",
    "progress",
    "views",
    "distributions",
    "schedules",
    "solvers",
    "denoisers",
    "tables",
    "codec",
    "training",
    "experts",
    "density",
    "metrics",
    "baselines",
    "figures",
    "certificate",
    "students",
    "model",
    "estimators",
    "distillation",
    "jobs",
    "sweeps",
    "public",
    "report",
    "lab",
    "cli",
    "__main__",
]
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_above_it(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "toydiffusion" else [base]
        for name in names:
            parts = name.split(".")
            if parts[0] != "toydiffusion" or len(parts) == 1 or parts[1] in (own, "__version__"):
                continue
            assert LAYERS.index(parts[1]) < LAYERS.index(own), f"{own} imports {parts[1]}, which is below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_modules_inside_a_folder_are_private_to_it(path: Path) -> None:
    """Other folders import only the names in the `__all__` of a folder, never its modules."""
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("toydiffusion."):
            continue
        module = str(node.module)
        other = module.split(".")[1]
        if other == own or not (ROOT / other).is_dir():
            continue
        assert module == f"toydiffusion.{other}", f"{path} reaches into {module}"
        promised = importlib.import_module(module).__all__
        assert [alias.name for alias in node.names if alias.name not in promised] == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_can_reach_the_network_or_run_text_as_code(path: Path) -> None:
    modules = {"socket", "ssl", "http", "urllib", "ftplib", "smtplib", "asyncio", "requests", "httpx"}
    if path == ROOT / "lab" / "server.py":
        modules -= {"http", "urllib"}  # it answers the browser on this machine, and asks nobody
    modules |= {"pickle", "marshal", "shelve", "joblib", "subprocess", "multiprocessing", "code"}
    if path.parent == ROOT / "jobs":
        # Workers are processes of our own, and a cluster's address is tried before Ray waits for it.
        modules -= {"local.py": {"multiprocessing"}, "on_ray.py": {"multiprocessing", "socket"}}.get(
            path.name, set()
        )
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & modules
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in modules
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "compile", "torch.load", "np.load", "os.system", "os.popen"}


def test_every_name_promised_is_there_and_sorted() -> None:
    packages = [toydiffusion] + [
        importlib.import_module(f"toydiffusion.{info.name}")
        for info in pkgutil.iter_modules(toydiffusion.__path__)
        if info.ispkg
    ]
    for package in packages:
        # As ruff sorts them: constants, classes, then the rest.
        promised = list(package.__all__)
        order = sorted(promised, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
        assert promised == order, package.__name__
        assert all(hasattr(package, name) for name in promised)


def test_importing_costs_torch_and_little_more() -> None:
    code = (
        "import sys, json, torch; before = set(sys.modules); import toydiffusion; "
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(run.stdout))
    heavy = {"matplotlib", "pandas", "polars", "pyarrow", "sklearn", "scipy", "typer", "jinja2", "rich"}
    assert "toydiffusion" in loaded
    assert not loaded & heavy


def test_the_version_has_one_source() -> None:
    """It is `toydiffusion.__version__`, and the changelog is in step with it."""
    version = Version(toydiffusion.__version__)
    assert importlib.metadata.version("toydiffusion") == str(version)
    text = (ROOT.parent / "CHANGELOG.md").read_text()
    first, *words = re.findall(r"^## (\S+)", text, flags=re.MULTILINE)
    released = [Version(word) for word in words]
    assert first == "Unreleased"
    assert released == sorted(set(released), reverse=True)
    assert not any(one.is_prerelease for one in released)
    # Between releases the version lies above the last one. A release is in the changelog.
    assert version > released[0] if version.is_devrelease else version == released[0]
