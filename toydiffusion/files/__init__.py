"""Files: complete or not written at all, and archives of tensors with metadata."""

from toydiffusion.files.archive import Archive
from toydiffusion.files.atomic import check_target, file_digest, replacing

__all__ = ["Archive", "check_target", "file_digest", "replacing"]
