"""Point tables in files (`.csv`, `.parquet`, `.npy`) and in memory, in and out.

Reading is strict: no row is lost and no value is changed without an error. Each error is one line that names
file, row and column. `read` and `from_frame` check the structure of a table. `check_for_fit` checks what
fitting needs beyond that.
"""

from toydiffusion.tables.columns import ON_BAD, SUFFIXES, check_suffix
from toydiffusion.tables.folder import TableFolder, files_of
from toydiffusion.tables.frames import from_frame
from toydiffusion.tables.labels import label_words
from toydiffusion.tables.names import choose_columns, default_columns, label_name, names_of
from toydiffusion.tables.reading import count_rows, read, read_blocks
from toydiffusion.tables.table import MOST_CLASSES, MOST_COLUMNS, Table, check_for_fit
from toydiffusion.tables.writing import Writer, check_not_same

__all__ = [
    "MOST_CLASSES",
    "MOST_COLUMNS",
    "ON_BAD",
    "SUFFIXES",
    "Table",
    "TableFolder",
    "Writer",
    "check_for_fit",
    "check_not_same",
    "check_suffix",
    "choose_columns",
    "count_rows",
    "default_columns",
    "files_of",
    "from_frame",
    "label_name",
    "label_words",
    "names_of",
    "read",
    "read_blocks",
]
