"""Training a network to denoise, a step at a time, interruptible and resumable.

`TrainConfig` is the one page of defaults; `run` is the whole of it, `train` the steps, `denoising_loss` the
one formula they minimise.
"""

from toydiffusion.training.config import TrainConfig
from toydiffusion.training.loop import TrainingError, run, train
from toydiffusion.training.loss import denoising_loss, expected_loss
from toydiffusion.training.state import History, TrainState, build, fingerprint

__all__ = [
    "History",
    "TrainConfig",
    "TrainState",
    "TrainingError",
    "build",
    "denoising_loss",
    "expected_loss",
    "fingerprint",
    "run",
    "train",
]
