"""Distillation: from a fitted model to the same model with students."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from toydiffusion.denoisers import Network
from toydiffusion.devices import torch_device
from toydiffusion.distillation.checks import CALIBRATION, FRESH, calibrated, certify
from toydiffusion.distillation.config import DistillConfig
from toydiffusion.distillation.lessons import Ground, Note, end_points, every_class, own_seed, starts
from toydiffusion.distillation.teaching import density_student, networks_of, sample_student
from toydiffusion.errors import InputError, seed_number, shown
from toydiffusion.model import Diffusion, FittedModel
from toydiffusion.progress import bar
from toydiffusion.students import Student


class DistillationWarning(UserWarning):
    """The students of a distilled model are worse than they should be. Its certificate says how."""


def distill(
    model: Diffusion,
    config: DistillConfig | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
) -> Diffusion:
    """Return the same model with students, which answer `sample` and `log_prob` in one call.

    Two small networks learn from the model, their teacher:

    - one learns its log-density at sigma_min at samples, near them and far from them, with an error bar that
      holds for 99 % of fresh points of each zone (`students.DensityStudent`);
    - one learns the end points of its probability flow (`students.SampleStudent`).

    The students are then compared with the teacher on fresh points. `result.student.certificate` says how
    near they come. What they cannot answer, such as points far outside the training range, the teacher still
    answers.

    - `model`: a fitted model of one to three columns. One of more columns is refused unless its certificate
      passes (`StudentCertificate.passed`).
    - `config`: the settings; None is `DistillConfig()`.
    - `seed`: the same seed gives the same students.
    - `device`: where to compute.
    - `progress`: whether to show a progress bar; None shows it on a terminal and in a notebook.

    Raises `InputError` for a model that is not fitted, or whose denoiser is not its own network, and for
    students of more than three columns that fail. With fewer columns there is a `DistillationWarning`.

    >>> import toydiffusion as td
    >>> x, _ = td.distributions.Square().sample(1000, seed=0)
    >>> model = td.Diffusion(td.TrainConfig(steps=200)).fit(x, seed=0)
    >>> quick = td.distill(model, td.DistillConfig(points=4000, steps=300))
    >>> float(abs(quick.log_prob(x).value - model.log_prob(x).value).mean()) < 0.2
    True
    """
    if not isinstance(model, Diffusion):
        raise InputError(f"model must be a Diffusion, got {shown(model)}")
    settings = DistillConfig() if config is None else config
    if not isinstance(settings, DistillConfig):
        raise InputError(f"config must be a DistillConfig, got {shown(config)}")
    teacher = replace(model.fitted, student=None).on(torch_device(device))
    if not isinstance(teacher.denoiser, Network):
        raise InputError("only a model with its own network can be distilled; this one has another denoiser")
    student = _student(teacher, settings, seed_number(seed), progress)
    certificate = student.certificate
    if not certificate.passed:
        rows = "; ".join(": ".join(row) for row in certificate.rows())
        if teacher.dim > 3:
            raise InputError(
                f"this model has {teacher.dim} columns, and its students are not near enough to it: {rows}"
            )
        warnings.warn(
            f"the students are less exact than they should be: {rows}", DistillationWarning, stacklevel=2
        )
    return Diffusion.of(replace(model.fitted, student=student.to(model.fitted.device)))


def _student(teacher: FittedModel, config: DistillConfig, seed: int, progress: bool | None) -> Student:
    classes = teacher.codec.num_classes
    points, pairs = config.num_points(classes), config.num_pairs(classes)
    # The bar counts points, and each step of the training as many as take the same time.
    total = points + pairs // _PAIRS_A_POINT + 2 * config.steps * _POINTS_A_STEP + CALIBRATION + FRESH
    networks = networks_of(teacher, config, seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Layers this small gain nothing from a second thread.
    try:
        with bar("distilling", total, progress) as move:
            done = 0

            def phase(text: str, size: int, unit: float) -> Note:
                nonlocal done
                first, done = done, done + size
                return lambda count: move(first + min(size, round(count * unit)), text)

            z, label = starts(
                teacher, range(pairs), every_class(teacher, pairs), seed=own_seed(seed, "lessons")
            )
            note = phase("end points", pairs // _PAIRS_A_POINT, 1 / _PAIRS_A_POINT)
            ends = end_points(teacher, z, label, note=note)
            steps = config.steps * _POINTS_A_STEP
            samples = sample_student(
                teacher, networks, z, label, ends, config, seed, phase("their student", steps, _POINTS_A_STEP)
            )

            ground = Ground.of(ends)
            notes = phase("log-densities", points, 1), phase("their student", steps, _POINTS_A_STEP)
            density = density_student(teacher, networks["density"], ground, ends, label, config, seed, notes)
            density = calibrated(teacher, density, ground, seed, phase("error bars", CALIBRATION, 1))
            certificate = certify(teacher, density, samples, ground, seed, phase("certificate", FRESH, 1))
    finally:
        torch.set_num_threads(threads)
    return Student(density, samples, certificate, seed)


_PAIRS_A_POINT = 8
_POINTS_A_STEP = 12
