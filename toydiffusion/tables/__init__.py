"""Point tables in files (`.csv`, `.parquet`, `.npy`) and in memory, in and out.

Reading is strict, so that no row or value is lost or bent in silence; each error is one line naming file,
row and column. `read` and `from_frame` check the structure; `check_for_fit` asks what fitting needs on top.
"""

from toydiffusion.tables.columns import ON_BAD, check_suffix
from toydiffusion.tables.frames import from_frame
from toydiffusion.tables.reading import read
from toydiffusion.tables.table import Table, check_for_fit, default_columns
from toydiffusion.tables.writing import Writer

__all__ = [
    "ON_BAD",
    "Table",
    "Writer",
    "check_for_fit",
    "check_suffix",
    "default_columns",
    "from_frame",
    "read",
]
