"""The commands. Each reads its flags and calls `Diffusion`; importing them adds them to the program."""

from toydiffusion.cli.commands import fitting, points, viewing
from toydiffusion.cli.program import app, run

__all__ = ["app", "fitting", "points", "run", "viewing"]
