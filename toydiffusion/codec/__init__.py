"""The crossing between tables in the user's coordinates x and the core's points z."""

from toydiffusion.codec.standardizer import Standardizer

__all__ = ["Standardizer"]
