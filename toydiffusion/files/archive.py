"""Our files of tensors: safetensors with JSON metadata and a digest, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from toydiffusion.errors import InputError
from toydiffusion.files.atomic import replacing

FORMAT = 1
"""Version of the files' layout; a file of another one is refused by name."""

_ENTRY = "toydiffusion"


@dataclass(frozen=True)
class Archive:
    """What a file holds: tensors by name, and a JSON object that describes them."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]

    def write(self, path: str | os.PathLike[str], kind: str) -> None:
        """Write the file whole or not at all; `kind` says what it is ("model", "checkpoint")."""
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        text = json.dumps(dict(self.metadata), sort_keys=True)
        # One entry only: safetensors writes several in an order that changes from run to run.
        stamp = {"kind": kind, "format": FORMAT, "digest": _digest(tensors, text), "metadata": text}
        with replacing(path) as part:
            part.write_bytes(save(tensors, metadata={_ENTRY: json.dumps(stamp)}))

    @classmethod
    def read(cls, path: str | os.PathLike[str], kind: str) -> Archive:
        """Read a file of this kind; one that is missing, damaged or something else is an `InputError`."""
        from safetensors import SafetensorError, safe_open

        name = str(path)
        if os.path.isdir(name):
            raise InputError(f"{name!r} is a folder, not a {kind} file")
        try:
            with safe_open(name, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise InputError(f"there is no {kind} file {name!r}") from None
        except OSError as error:
            raise InputError(f"cannot read {name!r}: {error.strerror or error}") from None
        except SafetensorError:
            raise InputError(
                f"{name!r} is not a {kind} file, or is cut off: expected a file that toydiffusion saved"
            ) from None
        if _ENTRY not in header:
            raise InputError(f"{name!r} is not a {kind} file: it was not saved by toydiffusion")
        try:
            stamp = json.loads(header[_ENTRY])
            found, version, text = stamp["kind"], stamp["format"], stamp["metadata"]
            whole = stamp["digest"] == _digest(tensors, text)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(f"{name!r} was altered after it was saved: its header cannot be read") from None
        if found != kind:
            raise InputError(f"{name!r} is a {found} file, expected a {kind} file")
        if version != FORMAT:
            raise InputError(
                f"{name!r} has format version {version}; this toydiffusion reads version {FORMAT}"
            )
        if not whole:
            raise InputError(f"{name!r} was altered after it was saved: its contents do not match its digest")
        return cls(tensors, json.loads(text))


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
