"""Training a network to denoise, one step at a time, interruptible and resumable.

`TrainConfig` is the one page of defaults. `run` trains and keeps a `Checkpoint`, and `train` takes the steps.
`denoising_loss` is the one formula they minimise, and `MirroredLoss` its gradient.
"""

from toydiffusion.training.checkpoint import Checkpoint, Resumable, check_checkpoint, fingerprint, kept
from toydiffusion.training.config import TrainConfig
from toydiffusion.training.gradient import FlatWeights, MirroredLoss
from toydiffusion.training.loop import Batch, TrainEvent, TrainingError, run, train, train_on
from toydiffusion.training.loss import denoising_loss, expected_loss
from toydiffusion.training.state import History, TrainState, build
from toydiffusion.training.streaming import train_streamed

__all__ = [
    "Batch",
    "Checkpoint",
    "FlatWeights",
    "History",
    "MirroredLoss",
    "Resumable",
    "TrainConfig",
    "TrainEvent",
    "TrainState",
    "TrainingError",
    "build",
    "check_checkpoint",
    "denoising_loss",
    "expected_loss",
    "fingerprint",
    "kept",
    "run",
    "train",
    "train_on",
    "train_streamed",
]
