"""The command line."""

from toydiffusion.cli.commands import app, main

__all__ = ["app", "main"]
