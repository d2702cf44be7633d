"""Files: written whole or not at all, and an archive of tensors with metadata."""

from toydiffusion.files.archive import Archive
from toydiffusion.files.atomic import check_target, file_digest, replacing

__all__ = ["Archive", "check_target", "file_digest", "replacing"]
