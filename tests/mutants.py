"""Level 8: one-line errors put into a copy of the source, each of which a test must catch.

Run with `make mutants`. Each mutant is a file, a piece of its text, what replaces it, and the tests that
should fail; a mutant that survives, or whose text is no longer there, fails the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    """One error: `old` becomes `new` in `file`; `tests` are pytest's arguments."""

    name: str
    file: str
    old: str
    new: str
    tests: str


SAMPLING, TRAINING = "tests/test_sampling.py", "tests/test_training.py"
SCHEDULES, MODEL = "tests/test_schedules.py", "tests/test_model.py"
EXACT = "tests/test_distributions.py"

MUTANTS = [
    Mutant(
        "time reversed in the sampler",
        "sampling.py",
        "return denoiser(z, z.new_full((len(z),), sigma), label)",
        "return denoiser(z, z.new_full((len(z),), float(levels[0] * levels[-1]) / sigma), label)",
        # Not the Gaussian's closed form: its integral over log sigma is the same backwards.
        f"{SAMPLING} -k 'clean_point or exact_square'",
    ),
    Mutant(
        "the prior without the data's variance",
        "distributions/prior.py",
        "means.append(own.mean(0))\n        covariances.append(centred.T @ centred / len(own))",
        "means.append(own.mean(0))\n        covariances.append(0 * centred.T @ centred / len(own))",
        f"{MODEL} -k start_has_the_moments",
    ),
    Mutant(
        "the prior at another level than the first",
        "sampling.py",
        "Prior(clean, top).sample",
        "Prior(clean, top / 2).sample",
        f"{SAMPLING} -k exact_square",
    ),
    Mutant(
        "the last step not denoised",
        "sampling.py",
        "return denoiser(z, z.new_full((len(z),), float(levels[-1])), label), label",
        "return z, label",
        f"{SAMPLING} -k clean_point",
    ),
    Mutant(
        "the log-determinant left out",
        "standardize.py",
        "-float(self.scale.log().sum())",
        "0.0",
        "toydiffusion/standardize.py",
    ),
    Mutant(
        "the label dropped in sampling",
        "sampling.py",
        "return denoiser(z, z.new_full((len(z),), sigma), label)",
        "return denoiser(z, z.new_full((len(z),), sigma), None)",
        f"{SAMPLING} -k labels_are_obeyed",
    ),
    Mutant(
        "the label dropped in training",
        "training/loop.py",
        "torch.where(dropped, num_classes, label[rows])",
        "torch.where(dropped | True, num_classes, label[rows])",
        f"{TRAINING} -k labels_are_learned",
    ),
    Mutant(
        "labels never dropped in training",
        "training/loop.py",
        "torch.where(dropped, num_classes, label[rows])",
        "label[rows]",
        f"{TRAINING} -k labels_are_learned",
    ),
    Mutant(
        "the seed ignored by the noise",
        "streams.py",
        "key = [int(self.seed), crc32",
        "key = [0, crc32",
        f"{MODEL} -k seed_and_their_number",
    ),
    Mutant(
        "the step ignored by the noise",
        "streams.py",
        "crc32(self.purpose.encode()), step, block]",
        "crc32(self.purpose.encode()), 0, block]",
        f"{SAMPLING} -k right_law",
    ),
    Mutant(
        "one noise for all points",
        "sampling.py",
        "rows = noise.normal(first_row, first_row + len(z), dim=z.shape[1], step=next(draws))",
        "rows = noise.normal(0, 1, dim=z.shape[1], step=next(draws)).expand_as(z)",
        f"{SAMPLING} -k right_law",
    ),
    Mutant(
        "(n,) against (n, 1)",
        "training/loss.py",
        "error.square().mean(1)).mean()",
        "error.square().mean(1, keepdim=True)).mean()",
        f"{TRAINING} -k squares_and_weighs",
    ),
    Mutant(
        "the norm not squared",
        "training/loss.py",
        "error.square().mean(1)",
        "error.abs().mean(1)",
        f"{TRAINING} -k 'least_loss or squares_and_weighs'",
    ),
    Mutant(
        "the loss not weighted",
        "training/loss.py",
        "(scheme.weight(sigma) * error",
        "(1.0 * error",
        f"{TRAINING} -k 'least_loss or squares_and_weighs'",
    ),
    Mutant(
        "a wrong schedule derivative",
        "schedules/formulas.py",
        "return 0.5 / torch.sqrt(t)",
        "return 1.0 / torch.sqrt(t)",
        f"{SCHEDULES} -k autograd",
    ),
    Mutant(
        "g squared without its factor",
        "schedules/base.py",
        "return 2 * self.sigma(t) * self.dsigma(t)",
        "return self.sigma(t) * self.dsigma(t)",
        f"{SCHEDULES} -k autograd",
    ),
    Mutant(
        "strata in the order of the points",
        "schedules/base.py",
        "order = torch.randperm(n, generator=generator)",
        "order = torch.arange(n)",
        f"{SCHEDULES} -k stratum",
    ),
    Mutant(
        "alpha forgotten",
        "schedules/formulas.py",
        "return torch.cos(math.pi * t / 2)",
        "return torch.ones_like(t)",
        f"{SCHEDULES} -k preserve",
    ),
    Mutant(
        "Heun weighs its slopes unevenly",
        "solvers.py",
        "b=(0.5, 0.5), c=(0.0, 1.0)",
        "b=(0.6, 0.4), c=(0.0, 1.0)",
        f"{SAMPLING} -k order_conditions",
    ),
    Mutant(
        "sigma_t where sigma_s belongs",
        "sampling.py",
        "level, rate = _level_and_rate(clock, start + c * (end - start))",
        "level, rate = _level_and_rate(clock, start)",
        f"{SAMPLING} -k declared_order",
    ),
    Mutant(
        "the multistep method forgets its past",
        "sampling.py",
        "deque(maxlen=method.order)",
        "deque(maxlen=1)",
        f"{SAMPLING} -k declared_order",
    ),
    Mutant(
        "the first step of order 3 not corrected",
        "sampling.py",
        "if method.order > 2 and len(past) == 1:",
        "if method.order > 3 and len(past) == 1:",
        f"{SAMPLING} -k declared_order",
    ),
    Mutant(
        "churn without its noise",
        "sampling.py",
        "z = z + math.sqrt((sigma * gain) ** 2 - sigma**2) * fresh()",
        "pass",
        f"{SAMPLING} -k churn_keeps",
    ),
    Mutant(
        "the reverse SDE with half its drift",
        "sampling.py",
        "z = z + variance * score + math.sqrt(variance) * fresh()",
        "z = z + variance / 2 * score + math.sqrt(variance) * fresh()",
        f"{SAMPLING} -k right_law",
    ),
    Mutant(
        "the corrector with too much noise",
        "sampling.py",
        "z = z + delta * score + math.sqrt(2 * delta) * fresh()",
        "z = z + delta * score + math.sqrt(4 * delta) * fresh()",
        f"{SAMPLING} -k right_law",
    ),
    Mutant(
        "guidance from the wrong side",
        "denoisers.py",
        "return whole + weight * (denoiser(z, sigma, label) - whole)",
        "return whole - weight * (denoiser(z, sigma, label) - whole)",
        f"{SAMPLING} -k guidance",
    ),
    Mutant(
        "EDM's c_out wrong",
        "denoisers.py",
        "c_out=lambda sigma: sigma * (1 + sigma**2).rsqrt()",
        "c_out=lambda sigma: sigma * (1 + sigma**2)",
        f"{TRAINING} -k unit_variance",
    ),
    Mutant(
        "z denoised in float32",
        "denoisers.py",
        "return c_skip * z + c_out * raw.to(z)",
        "return (c_skip * z.float() + c_out * raw.to(z)).to(z)",
        f"{TRAINING} -k float64",
    ),
    Mutant(
        "the last weights kept in place of their average",
        "training/loop.py",
        "1 / (1 + config.averaging * state.step)",
        "1.0",
        f"{TRAINING} -k average_lags",
    ),
    Mutant(
        "held-out points trained on",
        "training/loop.py",
        "kept = order[len(kept_apart) :].sort().values",
        "kept = order.sort().values",
        f"{TRAINING} -k held_out_ones_never",
    ),
    Mutant(
        "the optimiser forgotten on resuming",
        "training/state.py",
        'self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})',
        "pass",
        f"{TRAINING} -k uninterrupted",
    ),
    Mutant(
        "coordinates not turned back",
        "standardize.py",
        "return self.mean + self.scale * z.double()",
        "return self.scale * z.double()",
        f"{MODEL} -k 'moments_of_the_data or coordinates'",
    ),
    Mutant(
        "the score with sigma in place of its square",
        "distributions/base.py",
        "(self._posterior_mean(x, sigma, label) - x) / sigma[:, None].square(),",
        "(self._posterior_mean(x, sigma, label) - x) / sigma[:, None],",
        EXACT,
    ),
    Mutant(
        "class frequencies left out of a class's density",
        "distributions/base.py",
        "joint = joint - self.frequencies.log()[label, None]",
        "joint = joint - 0 * self.frequencies.log()[label, None]",
        EXACT,
    ),
    Mutant(
        "total variation blind to what lies outside",
        "metrics.py",
        "(np.abs(share - mass).sum() + outside) / 2",
        "np.abs(share - mass).sum() / 2",
        f"{TRAINING} -k by_hand",
    ),
]


def outcome(mutant: Mutant) -> str:
    """Return "caught", or what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("toydiffusion", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "CHANGELOG.md"):
            shutil.copy(ROOT / name, copy)
        file = copy / "toydiffusion" / mutant.file
        text = file.read_text()
        if text.count(mutant.old) < 1:
            return "its text is no longer there"
        file.write_text(text.replace(mutant.old, mutant.new))
        command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider -m 'not slow' {mutant.tests}"
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            command, shell=True, cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        if run.returncode == 1 and "FAILED" in run.stdout:
            return "caught"
        return (
            "SURVIVED" if run.returncode == 0 else f"pytest ended with {run.returncode}: {run.stdout[-300:]}"
        )


def main() -> int:
    """Try every mutant (or those whose names contain the arguments); return 1 if any was not caught."""
    chosen = [m for m in MUTANTS if all(word in m.name for word in sys.argv[1:])]
    wrong = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, result in zip(chosen, pool.map(outcome, chosen), strict=True):
            wrong += result != "caught"
            print(f"{result:9} {mutant.file}: {mutant.name}", flush=True)
    print(f"{len(chosen) - wrong} of {len(chosen)} mutants caught")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
