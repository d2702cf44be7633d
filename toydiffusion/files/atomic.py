"""Atomic writing: a file appears complete or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toydiffusion.errors import InputError


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless a file can be written at `path`. For use before long computations.

    >>> check_target("missing/points.csv")
    Traceback (most recent call last):
    toydiffusion.errors.InputError: cannot write 'missing/points.csv': there is no folder 'missing'
    """
    _create_part(_resolve(path)).unlink()


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 digest of the contents of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same suffix. Move it to `path` if the block succeeds.

    After any exception, including KeyboardInterrupt, the temporary file is deleted and `path` is unchanged.
    If `path` is a symbolic link, its target is replaced.

    Raises `InputError` before the block runs, if the folder does not exist or is not writable, or if `path`
    is not a regular file. A full disk raises OSError.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as part:
    ...     _ = part.write_text("whole")
    >>> [(file.name, file.read_text()) for file in folder.iterdir()]
    [('a.txt', 'whole')]
    """
    target = _resolve(path)
    part = _create_part(target)
    try:
        yield part
        os.replace(part, target)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            _name(error, part, path)
        raise


def _name(error: OSError, part: Path, path: str | os.PathLike[str]) -> None:
    """Make an error of the file system, a full disk say, name the file that the user asked for."""
    if error.filename is None or str(error.filename) == str(part):
        error.filename = os.fspath(path)


def _resolve(path: str | os.PathLike[str]) -> Path:
    target, folder = Path(os.path.realpath(path)), Path(path).parent
    if target.is_dir():
        raise InputError(f"cannot write {str(path)!r}: it is a folder, a file name is needed")
    # As root, os.replace would replace even /dev/null by a regular file.
    if target.exists() and not target.is_file():
        raise InputError(f"cannot write {str(path)!r}: it exists and is not a regular file")
    if not target.parent.exists():
        raise InputError(f"cannot write {str(path)!r}: there is no folder {str(folder)!r}")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {str(path)!r}: {str(folder)!r} is not a folder")
    return target


def _create_part(target: Path) -> Path:
    """Create the temporary file. (For root os.access is always true, so the only test is to write.)"""
    part = target.with_name(f".{target.stem}.{os.getpid()}-{secrets.token_hex(4)}.part{target.suffix}")
    try:
        part.open("xb").close()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            _name(error, part, target)
            raise
        reason = os.strerror(error.errno).lower()
        message = (
            f"cannot write {str(target)!r}: the folder {str(target.parent)!r} is not writable ({reason})"
        )
        raise InputError(message) from error
    return part
