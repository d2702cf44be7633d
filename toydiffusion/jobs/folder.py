"""Where shards go: a folder of this machine, or one of an object store."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

from toydiffusion.errors import InputError, plain, shown
from toydiffusion.files import replacing

MANIFEST = "_manifest.json"
"""The file that says what the job of a folder is, and which shards it has."""
_TEMPORARY = re.compile(r"\._?part-\d{6}\.\d+-[0-9a-f]+\.part\.(parquet|json)|\._manifest\..*\.part\.json")
"""What `replacing` calls a file that is not yet whole."""


class Folder(Protocol):
    """A folder whose files appear whole or not at all."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Make the folder if there is none, and keep others out; `InputError` if another run is at work."""
        ...

    def names(self) -> set[str]:
        """Return the names of its files, without those of files that are not yet whole."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or None without one."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        ...

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """Yield a path to write to with `tables.Writer`; the file is in the folder after the block."""
        ...

    def size_and_digest(self, name: str) -> tuple[int, str] | None:
        """Return the bytes of a file and their SHA-256, or None without one."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def clean(self) -> None:
        """Remove files that never became whole, of runs that were killed."""
        ...


def folder_at(place: str) -> Folder:
    """Return the folder at a path, or at a URI such as `s3://bucket/folder`."""
    return _ObjectStore(place) if "://" in place else _LocalFolder(Path(place))


class _LocalFolder:
    """A folder of a file system that every worker sees."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return repr(str(self._path))

    @contextmanager
    def locked(self) -> Iterator[None]:
        if self._path.exists() and not self._path.is_dir():
            raise InputError(f"{self.name} is a file, a folder is needed")
        if not self._path.parent.is_dir():
            raise InputError(f"cannot make {self.name}: there is no folder {str(self._path.parent)!r}")
        try:
            self._path.mkdir(exist_ok=True)
            descriptor = os.open(self._path, os.O_RDONLY)
        except PermissionError as error:
            raise InputError(f"cannot write to {self.name} ({plain(error.strerror)})") from error
        try:
            # The lock of a process that is killed goes with it.
            import fcntl

            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another run is at work in {self.name}; wait for its end, or give another folder"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def names(self) -> set[str]:
        return {one.name for one in self._path.iterdir() if not _TEMPORARY.fullmatch(one.name)}

    def read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        with replacing(self._path / name) as part:
            part.write_bytes(content)

    def writing(self, name: str) -> AbstractContextManager[Path]:
        return nullcontext(self._path / name)  # tables.Writer replaces it, whole

    def size_and_digest(self, name: str) -> tuple[int, str] | None:
        try:
            with (self._path / name).open("rb") as file:
                return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def clean(self) -> None:
        for one in list(self._path.iterdir()):
            if _TEMPORARY.fullmatch(one.name):
                one.unlink(missing_ok=True)


class _ObjectStore:
    """A folder of a store that pyarrow knows: a file is put there in one go, since a store cannot rename.

    A store has no locks. Two runs at the same time write the same bytes, so the second one only wastes work.
    """

    def __init__(self, uri: str) -> None:
        import pyarrow as pa
        from pyarrow import fs

        self._uri = uri.rstrip("/")
        try:
            self._store, self._root = fs.FileSystem.from_uri(self._uri)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise InputError(f"{shown(uri)} is no place that can be written to ({plain(error)})") from error

    @property
    def name(self) -> str:
        return repr(self._uri)

    @contextmanager
    def locked(self) -> Iterator[None]:
        try:
            self._store.create_dir(self._root, recursive=True)
        except OSError as error:
            raise InputError(f"cannot write to {self.name} ({plain(error)})") from error
        yield

    def names(self) -> set[str]:
        from pyarrow import fs

        found = self._store.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return {one.base_name for one in found}

    def read(self, name: str) -> bytes | None:
        with self._opened(name) as file:
            return None if file is None else file.read()

    def write(self, name: str, content: bytes) -> None:
        with self._store.open_output_stream(f"{self._root}/{name}") as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            yield path
            with path.open("rb") as source, self._store.open_output_stream(f"{self._root}/{name}") as file:
                while block := source.read(_BLOCK):
                    file.write(block)

    def size_and_digest(self, name: str) -> tuple[int, str] | None:
        with self._opened(name) as file:
            if file is None:
                return None
            digest, size = hashlib.sha256(), 0
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
            return size, digest.hexdigest()

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._store.delete_file(f"{self._root}/{name}")

    def clean(self) -> None:
        return  # what was not put whole was never there

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        try:
            file = self._store.open_input_stream(f"{self._root}/{name}")
        except FileNotFoundError:
            yield None
            return
        with file:
            yield file


_BLOCK = 2**22
