"""The maps between tables in the user's coordinates x and the core's points z."""

from toydiffusion.codec.bounds import Bounds
from toydiffusion.codec.cells import Cells
from toydiffusion.codec.codec import Codec
from toydiffusion.codec.power import PowerMap
from toydiffusion.codec.running_moments import RunningMoments
from toydiffusion.codec.standardizer import Standardizer

__all__ = ["Bounds", "Cells", "Codec", "PowerMap", "RunningMoments", "Standardizer"]
