"""The interactive page: built from `web/`, served on this machine, or written to one file."""

from toydiffusion.lab.page import export, page
from toydiffusion.lab.server import Server

__all__ = ["Server", "export", "page"]
