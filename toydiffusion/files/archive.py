"""Files of tensors: safetensors with JSON metadata and a digest, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from toydiffusion.errors import InputError, shown
from toydiffusion.files.atomic import replacing

FORMAT = 2
"""The version of the file format. Files of other versions are refused."""

_ENTRY = "toydiffusion"
_LONGEST = 10**7
"""The most characters of metadata. Longer metadata is refused before it is parsed."""
_DEEPEST = 8
"""The most levels of lists and objects in metadata. How many Python can parse depends on its version."""
_DTYPES = (torch.float32, torch.float64, torch.int64)


@dataclass(frozen=True)
class Archive:
    """The contents of a file.

    - `tensors`: float32, float64 or int64 tensors by name.
    - `metadata`: a JSON object that describes them.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]

    def write(self, path: str | os.PathLike[str], kind: str) -> None:
        """Write the file, complete or not at all.

        - `path`: the file.
        - `kind`: what it contains: "model" or "checkpoint".
        """
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        text = json.dumps(dict(self.metadata), sort_keys=True)
        # One entry only, because safetensors writes several in an order that varies from run to run.
        stamp = {
            "kind": kind,
            "format": FORMAT,
            "digest": _digest(kind, FORMAT, text, tensors),
            "metadata": text,
        }
        with replacing(path) as part:
            part.write_bytes(save(tensors, metadata={_ENTRY: json.dumps(stamp)}))

    @classmethod
    def read(cls, path: str | os.PathLike[str], kind: str) -> Archive:
        """Return the contents of a file of this kind.

        The file is untrusted input. Its digest detects accidents, not malice, because anyone can compute it.
        This method checks only the format. The caller must check every name, shape and number.

        Raises `InputError` for a file that is missing, damaged, or of another kind.
        """
        from safetensors import SafetensorError, safe_open

        name = shown(str(path))
        if os.path.isdir(path):
            raise InputError(f"{name} is a folder, not a {kind} file")
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"{name} is not a regular file")
        try:
            with safe_open(str(path), framework="pt") as file:
                header = file.metadata() or {}
                stamp = _stamp(header, name, kind)
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise InputError(f"there is no {kind} file {name}") from None
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror or error}") from None
        except SafetensorError:
            raise InputError(
                f"{name} is not a {kind} file, or is cut off: expected a file that toydiffusion saved"
            ) from None
        if any(tensor.dtype not in _DTYPES for tensor in tensors.values()):
            raise InputError(f"{name} was altered after it was saved: it has numbers of another type")
        text = stamp["metadata"]
        if stamp["digest"] != _digest(kind, FORMAT, text, tensors):
            raise InputError(f"{name} was altered after it was saved: its contents do not match its digest")
        metadata = _json(text, name)
        if not isinstance(metadata, dict):
            raise InputError(f"{name} was altered after it was saved: its metadata is not an object")
        return cls(tensors, metadata)


def _stamp(header: Mapping[str, str], name: str, kind: str) -> dict[str, Any]:
    """Return kind, format, digest and metadata of the file. Digest and metadata are not checked here."""
    if _ENTRY not in header:
        raise InputError(f"{name} is not a {kind} file: it was not saved by toydiffusion")
    stamp = _json(header[_ENTRY], name)
    texts = ("kind", "digest", "metadata")
    if not isinstance(stamp, dict) or not all(isinstance(stamp.get(key), str) for key in texts):
        raise InputError(f"{name} was altered after it was saved: its header cannot be read")
    if stamp["kind"] != kind:
        raise InputError(f"{name} is a {shown(stamp['kind'])[1:-1]} file, expected a {kind} file")
    if stamp.get("format") != FORMAT:
        version = shown(stamp.get("format"))
        raise InputError(f"{name} has format version {version}; this toydiffusion reads version {FORMAT}")
    return stamp


def _json(text: str, name: str) -> Any:
    """Return the parsed text. Raises `InputError` for text that is too long, too deep, or not JSON."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        if len(text) > _LONGEST:
            raise ValueError("too long")
        tree = json.loads(text, parse_constant=refuse)
        level = [tree]
        for _ in range(_DEEPEST):
            inner = [
                one.values() if isinstance(one, dict) else one
                for one in level
                if isinstance(one, dict | list)
            ]
            level = [one for several in inner for one in several]
        if level:
            raise ValueError("too deep")
        return tree
    except (ValueError, RecursionError):
        raise InputError(f"{name} was altered after it was saved: its header cannot be read") from None


def _digest(kind: str, version: int, text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps([kind, version, text]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
