"""One-line errors put into a copy of the source, each of which a test must catch.

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
    """One error: `old` becomes `new` in `file`; `tests` are pytest's arguments.

    They choose among the quick tests, unless they say `-m slow`. All of vitest judges a file of the page.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


SOLVERS, TRAINING = "tests/test_solvers.py", "tests/test_training.py"
SCHEDULES, MODEL = "tests/test_schedules.py", "tests/test_model.py"
EXACT = "tests/test_distributions.py"
DENSITY, ELBO = "tests/test_density.py", "tests/test_elbo.py"
BOUNDS = "tests/test_bounds.py"
HELD_OUT, REPORT_TABLE = "tests/test_held_out.py", "tests/test_table_report.py"
CERTIFICATE, DENSITIES = "tests/test_certificate.py", "tests/test_densities.py"
VALUE, LOST = "tests/test_fitted_model.py", "tests/test_nothing_lost.py"
PLOT = "tests/test_plot.py"
FILE, COMMAND = "tests/test_model_file.py", "tests/test_log_prob_command.py"
DISTILLATION = "tests/test_distillation.py"
LAB = "tests/test_lab.py"
COLUMNS, STACKED = "tests/test_columns.py", "tests/test_stacked.py"
EXPERTS, ESTIMATORS, TABLE = "tests/test_experts.py", "tests/test_estimators.py", "tests/test_table_model.py"
PAGE = "../web/"
"""The page's files, seen from the package."""

MUTANTS = [
    Mutant(
        "time reversed in the sampler",
        "solvers/reverse.py",
        "return denoiser(z, z.new_full((1,), sigma).expand(len(z)), label)",
        "return denoiser(z, z.new_full((1,), float(levels[0] * levels[-1]) / sigma).expand(len(z)), label)",
        # Not the Gaussian's closed form: its integral over log sigma is the same backwards.
        f"{SOLVERS} -k 'clean_point or exact_square'",
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
        "solvers/reverse.py",
        "Prior(law, float(levels[0])).rows",
        "Prior(law, float(levels[0]) / 2).rows",
        f"{SOLVERS} -k exact_square",
    ),
    Mutant(
        "the last step not denoised",
        "solvers/reverse.py",
        "yield denoiser(z, z.new_full((1,), float(levels[-1])).expand(len(z)), label)",
        "yield z",
        f"{SOLVERS} -k clean_point",
    ),
    Mutant(
        "the departure from the Gaussian without its own part",
        "solvers/reverse.py",
        "departure = reference.variance * y - spread",
        "departure = y - spread",
        f"{SOLVERS} -k 'gaussian_classes or closed_form'",
    ),
    Mutant(
        "a polynomial of degree 0 where degree 1 is declared",
        "solvers/methods.py",
        "if i != j:\n                    basis = basis * (v - other) / (here - other)",
        "if i != j and False:\n                    basis = basis * (v - other) / (here - other)",
        f"{SOLVERS} -k 'integrate_their_polynomials or declared_order'",
    ),
    Mutant(
        "Adams-Bashforth measures in theta of the unit Gaussian",
        "solvers/methods.py",
        "root = variance.sqrt()[..., None]",
        "root = torch.ones_like(variance)[..., None]",
        f"{SOLVERS} -k 'integrate_their_polynomials or moments_change'",
    ),
    Mutant(
        "few steps start at the top",
        "solvers/sample_config.py",
        "top = min(self.steps / 2, sigma_max)",
        "top = sigma_max",
        f"{SOLVERS} -k 'widen_with or come_nearest'",
    ),
    Mutant(
        "the last step of Adams-Bashforth left out",
        "solvers/reverse.py",
        "torch.cat([levels.double(), levels.new_zeros(1).double()]) if whole else levels",
        "levels",
        f"{SOLVERS} -k 'exact_at_any or steps_count'",
    ),
    Mutant(
        "edges without their slope in the trace",
        "denoisers/network.py",
        "return torch.addcmul(steep, self.bend, self.bend * steep, value=-1)",
        "return steep.expand_as(self.bend)",
        "tests/test_network.py",
    ),
    Mutant(
        "the sign of the cosines' derivative in the trace",
        "denoisers/network.py",
        "-c_in * phase.sin(),",
        "c_in * phase.sin(),",
        "tests/test_network.py -k waves",
    ),
    Mutant(
        "the gradient of the softness of an edge by half",
        "training/gradient.py",
        ".addcmul_(inner, units.ahead)",
        "",
        f"{TRAINING} -k gradient_is",
    ),
    Mutant(
        "an edge unit that does not shrink below its softness",
        "denoisers/network.py",
        "return self.bend * (4 * self.gate)",
        "return self.bend * (4 * self.gate / self.gate)",
        "tests/test_network.py -k soft",
    ),
    Mutant(
        "soft edges in a model of before they were",
        "model/model_file.py",
        '"network.edge_softness", torch.zeros(config.edges)',
        '"network.edge_softness", torch.full((config.edges,), 0.2)',
        "tests/test_model_file.py -k earlier",
    ),
    Mutant(
        "the gradient of one noise counted for both",
        "training/gradient.py",
        "both = inner.sum(0)",
        "both = inner[0]",
        f"{TRAINING} -k gradient_is",
    ),
    Mutant(
        "Adam without its correction of the first steps",
        "training/loop.py",
        "value=-rate / first)",
        "value=-rate)",
        f"{TRAINING} -k adams",
    ),
    Mutant(
        "the last average kept in place of the best one",
        "training/loop.py",
        "if held_loss <= min(",
        "if held_loss <= math.inf or min(",
        f"{TRAINING} -k best_average",
    ),
    Mutant(
        "the log-determinant left out",
        "codec/standardizer.py",
        "-float(self.scale.log().sum())",
        "0.0",
        "toydiffusion/codec/standardizer.py",
    ),
    Mutant(
        "the label dropped in sampling",
        "solvers/reverse.py",
        "return denoiser(z, z.new_full((1,), sigma).expand(len(z)), label)",
        "return denoiser(z, z.new_full((1,), sigma).expand(len(z)), None)",
        f"{SOLVERS} -k labels_are_followed",
    ),
    Mutant(
        "the label dropped in training",
        "training/loop.py",
        "torch.where(dropped, num_classes, label)",
        "torch.where(dropped | True, num_classes, label)",
        f"{TRAINING} -k labels_are_learned",
    ),
    Mutant(
        "labels never dropped in training",
        "training/loop.py",
        "torch.where(dropped, num_classes, label)",
        "label",
        f"{TRAINING} -k labels_are_learned",
    ),
    Mutant(
        "the seed ignored by the noise",
        "row_noise.py",
        "key = [self.seed, crc32",
        "key = [0, crc32",
        f"{MODEL} -k seed_and_their_number",
    ),
    Mutant(
        "the step ignored by the noise",
        "row_noise.py",
        "crc32(self.purpose.encode()), step, block]",
        "crc32(self.purpose.encode()), 0, block]",
        f"{SOLVERS} -k right_law",
    ),
    Mutant(
        "one noise for all points",
        "solvers/reverse.py",
        "rows = noise.normal(first_row, first_row + len(z), dim=z.shape[1], step=next(counter))",
        "rows = noise.normal(0, 1, dim=z.shape[1], step=next(counter)).expand_as(z)",
        f"{SOLVERS} -k right_law",
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
        "solvers/methods.py",
        "b=(0.5, 0.5), c=(0.0, 1.0)",
        "b=(0.6, 0.4), c=(0.0, 1.0)",
        f"{SOLVERS} -k order_conditions",
    ),
    Mutant(
        "sigma_t where sigma_s belongs",
        "solvers/reverse.py",
        "level, rate = _level_and_rate(clock, start + c * (end - start))",
        "level, rate = _level_and_rate(clock, start)",
        f"{SOLVERS} -k declared_order",
    ),
    Mutant(
        "the multistep method forgets its past",
        "solvers/reverse.py",
        "deque(maxlen=method.order)",
        "deque(maxlen=1)",
        f"{SOLVERS} -k declared_order",
    ),
    Mutant(
        "the first step of order 3 not corrected",
        "solvers/reverse.py",
        "if method.order > 2 and len(past) == 1:",
        "if method.order > 3 and len(past) == 1:",
        f"{SOLVERS} -k declared_order",
    ),
    Mutant(
        "churn without its noise",
        "solvers/reverse.py",
        "z = z + math.sqrt((sigma * gain) ** 2 - sigma**2) * fresh()",
        "pass",
        f"{SOLVERS} -k churn_keeps",
    ),
    Mutant(
        "the reverse SDE with half its drift",
        "solvers/reverse.py",
        "z = z + variance * score + math.sqrt(variance) * fresh()",
        "z = z + variance / 2 * score + math.sqrt(variance) * fresh()",
        f"{SOLVERS} -k right_law",
    ),
    Mutant(
        "the corrector with too much noise",
        "solvers/reverse.py",
        "z = z + delta * score + math.sqrt(2 * delta) * fresh()",
        "z = z + delta * score + math.sqrt(4 * delta) * fresh()",
        f"{SOLVERS} -k right_law",
    ),
    Mutant(
        "guidance from the wrong side",
        "denoisers/wrappers.py",
        "return without + self.weight * (self.denoiser(z, sigma, label) - without)",
        "return without - self.weight * (self.denoiser(z, sigma, label) - without)",
        f"{SOLVERS} -k guidance",
    ),
    Mutant(
        "EDM's c_out wrong",
        "denoisers/preconditioning.py",
        "return sigma * (1 + sigma**2).rsqrt()",
        "return sigma * (1 + sigma**2)",
        f"{TRAINING} -k unit_variance",
    ),
    Mutant(
        "z denoised in float32",
        "denoisers/network.py",
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
        "rows = order[len(kept_apart) :].sort().values",
        "rows = order.sort().values",
        f"{TRAINING} -k held_out_ones_never",
    ),
    Mutant(
        "the optimiser forgotten on resuming",
        "training/state.py",
        '"average": self.average.values, "moments": self.moments}\n        for',
        '"average": self.average.values}\n        for',
        f"{TRAINING} -k uninterrupted",
    ),
    Mutant(
        "coordinates not turned back",
        "codec/standardizer.py",
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
    Mutant(
        "the sign of the divergence",
        "density/flow_field.py",
        "dg = trace - shrinkage.sum(1, keepdim=True)",
        "dg = shrinkage.sum(1, keepdim=True) - trace",
        f"{DENSITY} -k 'exact_log_density and square'",
    ),
    Mutant(
        "the divergence forgotten",
        "density/flow_field.py",
        "ds[:, None] * torch.cat([dy, dg], 1)",
        "ds[:, None] * torch.cat([dy, 0 * dg], 1)",
        f"{DENSITY} -k 'exact_log_density and square'",
    ),
    Mutant(
        "the time of the flow reversed",
        "density/own_steps.py",
        "ahead = (goal - u).sign()",
        "ahead = (u - goal).sign()",
        f"{DENSITY} -k any_tolerance",
    ),
    Mutant(
        "the Gaussian's height left out of the flow",
        "density/probability_flow.py",
        "change=height[:, None] + best.state[:, d:]",
        "change=0 * height[:, None] + best.state[:, d:]",
        f"{DENSITY} -k any_tolerance",
    ),
    Mutant(
        "a wrong stage of the solver",
        "solvers/methods.py",
        "(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)",
        "(36 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84 - 1 / 384)",
        f"{DENSITY} -k 'exact_log_density and mixture'",
    ),
    Mutant(
        "the label dropped in the flow",
        "density/probability_flow.py",
        "FlowField(self.denoiser, reference, label,",
        "FlowField(self.denoiser, reference, None,",
        f"{DENSITY} -k label_is_heeded",
    ),
    Mutant(
        "the label dropped in the prior of the density",
        "density/log_density.py",
        "value = prior.log_prob(carried.z, label) - carried.change.mean(1)\n        mismatch",
        "value = prior.log_prob(carried.z) - carried.change.mean(1)\n        mismatch",
        f"{DENSITY} -k 'label_is_heeded or any_tolerance or exact_log_density'",
    ),
    Mutant(
        "the error bar without its caution",
        "density/own_steps.py",
        "error = (CAUTION * checks.total)",
        "error = (0.01 * checks.total)",
        f"{DENSITY} -k 'exact_log_density and square'",
    ),
    Mutant(
        "the error bar without the way's own share",
        "density/own_steps.py",
        "share = _AIM * tolerance / strict / span",
        "share = 100 * tolerance / span",
        f"{DENSITY} -k smaller_tolerance",
    ),
    Mutant(
        "a step that depends on the batch",
        "density/own_steps.py",
        "accepted = (size <= allowed) | (exhausted & (length <= _FORCED))",
        "accepted = (size.max() <= allowed) | (exhausted & (length <= _FORCED))",
        f"{DENSITY} -k depend_on_its_batch",
    ),
    Mutant(
        "even steps corrected without the new slope's neighbours",
        "density/even_steps.py",
        "move = h * combine(_weights(range(1, -len(before), -1)), [slope, *before])",
        "move = h * (slope + before[0]) / 2",
        f"{DENSITY} -k 'even_steps_converge or even_steps_only'",
    ),
    Mutant(
        "even steps downward not corrected by tau",
        "density/even_steps.py",
        "here[:, d:] - along.tau(e).sum(0)",
        "here[:, d:] + along.tau(e).sum(0)",
        f"{DENSITY} -k 'even_steps_converge'",
    ),
    Mutant(
        "even steps upward not integrated again",
        "density/even_steps.py",
        "final = state + again.sum(0)",
        "final = here",
        f"{DENSITY} -k even_steps_only",
    ),
    Mutant(
        "bars of even steps ten times too narrow",
        "density/even_steps.py",
        "error = CAUTION * along.size(e).sum(0)",
        "error = 0.1 * CAUTION * along.size(e).sum(0)",
        f"{DENSITY} -k 'even_steps_only or log_densities_of_their_own'",
    ),
    Mutant(
        "even steps for points far out",
        "density/probability_flow.py",
        "near = nats_of(start, d) < NEAR + d",
        "near = nats_of(start, d) >= 0",
        f"{DENSITY} -k far_out",
    ),
    Mutant(
        "as many even steps for all as for the widest span",
        "density/probability_flow.py",
        "(field.time(end) - field.time(sigma)).abs())",
        "(field.time(end) - field.time(sigma)).abs().max() + 0 * sigma)",
        f"{DENSITY} -k levels_of_their_own",
    ),
    Mutant(
        "answers of threads out of order",
        "threads.py",
        "yield waiting.popleft().result()\n            while",
        "yield waiting.pop().result()\n            while",
        "tests/test_threads.py",
    ),
    Mutant(
        "a student that sees the first class only",
        "students/network.py",
        "functional.embedding(label, offset), functional.embedding(label, bias)",
        "functional.embedding(0 * label, offset), functional.embedding(label, bias)",
        f"{DISTILLATION} -k its_own_label",
    ),
    Mutant(
        "the first solution kept where a second one is better",
        "density/flow_field.py",
        "better = (again.error < before) | before.isinf()",
        "better = before.isinf()",
        f"{DENSITY} -k 'brought_within'",
    ),
    Mutant(
        "the prior's mismatch with a wrong sign",
        "density/log_density.py",
        "return ours - constant[kind], std_error[kind]",
        "return constant[kind] - ours, std_error[kind]",
        f"{DENSITY} -k prior_mismatch",
    ),
    Mutant(
        "the prior's density without the noise's variance",
        "distributions/prior.py",
        "return self.distribution.log_prob(z, self.sigma, label)",
        "return self.distribution.log_prob(z, 0.0, label)",
        f"{DENSITY} -k any_tolerance",
    ),
    Mutant(
        "the prior's density without the data's variance",
        "distributions/prior.py",
        "return self.distribution.log_prob(z, self.sigma, label)",
        "return -(z / self.sigma).square().sum(1) / 2 - z.shape[1] * float(torch.tensor(self.sigma).log())"
        " - z.shape[1] * 0.9189385332046727",
        f"{DENSITY} -k any_tolerance",
    ),
    Mutant(
        "the ELBO's control variate as thin as a point",
        "density/elbo.py",
        ".widened(math.exp(2 * law.center))",
        "",
        f"{ELBO} -k thin_class",
    ),
    Mutant(
        "Hutchinson's probes not of unit variance",
        "density/log_density.py",
        "signs = torch.where(coins < 0.5, -1.0, 1.0)",
        "signs = torch.where(coins < 0.5, -1.0, 0.5)",
        f"{DENSITY} -k hutchinson",
    ),
    Mutant(
        "the log-determinant left out of the log-density",
        "model/densities.py",
        "found.log_prob.shifted(model.codec.log_det(table.points[part]))",
        "found.log_prob",
        f"{DENSITIES} -k moves_by_the_log",
    ),
    Mutant(
        "class frequencies left out of the whole",
        "density/log_density.py",
        "joint = np.stack([part.value for part in parts], 1) + np.log(frequencies)",
        "joint = np.stack([part.value for part in parts], 1) - np.log(len(frequencies))",
        f"{DENSITIES} -k without_a_label",
    ),
    Mutant(
        "the score with sigma in place of its square, of the model",
        "density/density_model.py",
        "(clean - z) / sigma[:, None].square()",
        "(clean - z) / sigma[:, None]",
        f"{DENSITIES} -k tweedie",
    ),
    Mutant(
        "the ELBO's norm not squared",
        "density/elbo.py",
        "ours = (clean - denoiser(noisy, sigma, given)).square().sum(1)",
        "ours = (clean - denoiser(noisy, sigma, given)).norm(dim=1)",
        f"{ELBO} -k 'smoothed or quadrature'",
    ),
    Mutant(
        "the ELBO's weight without its half",
        "density/elbo.py",
        "weight: Tensor = (high - low) / (below * (1 - below)) / sigma.square()",
        "weight: Tensor = 2 * (high - low) / (below * (1 - below)) / sigma.square()",
        f"{ELBO} -k quadrature",
    ),
    Mutant(
        "the discrete ELBO weighted at the wrong end",
        "density/elbo.py",
        "return t, weight",
        "return s, weight",
        f"{ELBO} -k sum_over_its_steps",
    ),
    Mutant(
        "the ELBO without reconstruction's entropy",
        "density/elbo.py",
        "-d / 2 * math.log(2 * math.pi * math.e * law.sigma_min**2)",
        "-d / 2 * math.log(2 * math.pi * law.sigma_min**2)",
        f"{ELBO} -k quadrature",
    ),
    Mutant(
        "the ELBO's prior term dropped",
        "density/elbo.py",
        "total = _term(diffusion + start)",
        "total = _term(diffusion)",
        f"{ELBO} -k quadrature",
    ),
    Mutant(
        "one noise for all the points of the ELBO",
        "density/elbo.py",
        "^ shift[:, net, None]",
        "^ shift[:1, net, None]",
        f"{ELBO} -k depend_on_the_seed",
    ),
    Mutant(
        "Simpson's rule without its middle weights",
        "certificate/mass.py",
        "np.array([1, 4, 1])[offsets].prod(1) / 6**d",
        "np.array([2, 2, 2])[offsets].prod(1) / 6**d",
        f"{CERTIFICATE} -k 'quadrature_finds and two_moons'",
    ),
    Mutant(
        "the proposal's density without its height",
        "certificate/mass.py",
        "- factors.diagonal(dim1=1, dim2=2).log().sum(1)",
        "",
        f"{CERTIFICATE} -k importance_sampling_finds",
    ),
    Mutant(
        "the solver's error compared with itself",
        "certificate/check.py",
        "log_prob(replace(model, config=finer), z, level, index)",
        "log_prob(model, z, level, index)",
        f"{CERTIFICATE} -m slow -k against_the_truth",
    ),
    Mutant(
        "bars that cover by decree",
        "certificate/check.py",
        "covered=float(np.mean(miss <= found.error))",
        "covered=1.0",
        f"{CERTIFICATE} -m slow -k too_narrow",
    ),
    Mutant(
        "the certificate without the prior's error",
        "certificate/check.py",
        "prior_error=mean(found.prior_error)",
        "prior_error=mean(0 * found.prior_error)",
        f"{CERTIFICATE} -m slow -k against_the_truth",
    ),
    Mutant(
        "the budget's terms out of order",
        "certificate/budget.py",
        "terms[name] = mean(before - last)",
        "terms[name] = mean(before - after)",
        f"{CERTIFICATE} -m slow -k sum_to_the_total",
    ),
    Mutant(
        "step checks that are ten times too small",
        "density/own_steps.py",
        "size = self.steepness.rows(rows).size(self.moved[rows] - change)",
        "size = 0.1 * self.steepness.rows(rows).size(self.moved[rows] - change)",
        f"{DENSITY} -k learned_model_with_labels",
    ),
    # Rows, labels and noise levels of a part
    Mutant(
        "the labels of the first rows in every batch",
        "model/sampling.py",
        "own = None if label is None else label[part]",
        "own = None if label is None else label[: len(rows[part])]",
        f"{VALUE} -k under_labels_and_from_given",
    ),
    Mutant(
        "the given points of the first rows in every batch",
        "model/sampling.py",
        "None if given is None else given[part]",
        "None if given is None else given[: len(rows[part])]",
        f"{VALUE} -k under_labels_and_from_given",
    ),
    Mutant(
        "the noise levels of the first rows in every batch",
        "model/densities.py",
        "levels[part]",
        "levels[: len(points[part])]",
        f"{DENSITIES} -m slow -k batches_do_not_matter",
    ),
    Mutant(
        "only the last batch's misses counted",
        "jobs/operations.py",
        "tally.missed += int(",
        "tally.missed = int(",
        f"{COMMAND} -k one_line_of_warning",
    ),
    Mutant(
        "the model's start at another level than the first",
        "model/sampling.py",
        "Prior(model.prior.distribution, sigma).rows",
        "Prior(model.prior.distribution, sigma / 2).rows",
        f"{MODEL} -k core_sampler",
    ),
    Mutant(
        "the first row ignored by the reverse noise",
        "solvers/reverse.py",
        "noise.normal(first_row, first_row + len(z)",
        "noise.normal(0, len(z)",
        f"{VALUE} -k 'parts_of_a_sample_join and stochastic'",
    ),
    Mutant(
        "the first row ignored by the probes",
        "density/log_density.py",
        "uniform(first_row, first_row + n, dim=probes * d)",
        "uniform(0, n, dim=probes * d)",
        f"{VALUE} -k parts_of_densities",
    ),
    Mutant(
        "the first row ignored by the bound",
        "density/elbo.py",
        "first_row + first, len(z[some])",
        "first, len(z[some])",
        f"{VALUE} -k parts_of_densities",
    ),
    Mutant(
        "the first row ignored by samples with their densities",
        "density/density_model.py",
        "model.prior.rows(rows, seed=seed, label=label)",
        "model.prior.rows(range(len(rows)), seed=seed, label=label)",
        f"{VALUE} -k with_their_densities",
    ),
    # No label is the mixture
    Mutant(
        "samples of the mixture with the density of their class",
        "density/density_model.py",
        "if label is None and own is not None:",
        "if False:",
        f"{VALUE} -k with_their_densities",
    ),
    Mutant(
        "the mixture's gradient without the frequencies",
        "density/density_model.py",
        "(values + torch.from_numpy(model.frequencies).log()).softmax(1)",
        "values.softmax(1)",
        f"{DENSITIES} -m slow -k gradient_is_that",
    ),
    Mutant(
        "the mixture's score without the posterior",
        "density/density_model.py",
        "class_posterior(model, z, sigma) if",
        "np.tile(model.frequencies, (len(z), 1)) if",
        f"{DENSITIES} -k tweedie",
    ),
    Mutant(
        "given points without labels in classes by frequency",
        "model/sampling.py",
        "class_posterior(model.density(), start, level)",
        "model.density().frequencies[None].repeat(len(start), 0)",
        f"{VALUE} -k classes_from_their_posterior",
    ),
    Mutant(
        "the network without labels by the name of None",
        "denoisers/network.py",
        "if label is None and self.num_classes > 1:",
        "if False:",
        f"{VALUE} -k name_of_its_own",
    ),
    # Figures and frames
    Mutant(
        "the truth without its smoothing",
        "model/plotting.py",
        "truth.log_prob(codec.to_z(table_of(points)), model.sigma_min)",
        "truth.log_prob(codec.to_z(table_of(points)), 0.0)",
        f"{PLOT} -k the_truth",
    ),
    Mutant(
        "a map turned over",
        "figures/learned.py",
        'origin="lower",\n                extent',
        'origin="upper",\n                extent',
        f"{PLOT} -k beside_the_points",
    ),
    Mutant(
        "columns in the order of the figure taken for those of the model",
        "model/plotting.py",
        "np.argsort(order)",
        "range(d)",
        f"{PLOT} -k another_order",
    ),
    Mutant(
        "data and samples in each other's place",
        "figures/learned.py",
        "samples if j < i else data",
        "data if j < i else samples",
        f"{PLOT} -k below_the_diagonal",
    ),
    Mutant(
        "text of a user as HTML",
        "views.py",
        "{escape(text)}</td>",
        "{text}</td>",
        "tests/test_notebook_views.py -k escapes",
    ),
    # Files and stopping
    Mutant(
        "labels of a file by value only",
        "codec/codec.py",
        "if self.classes is not None and labels.dtype != self.classes.dtype:",
        "if False:",
        f"{LOST} -k labels_of_text",
    ),
    Mutant(
        "a second Ctrl-C that waits like the first",
        "training/checkpoint.py",
        "        if len(signals) > 1:\n            raise KeyboardInterrupt",
        "",
        f"{LOST} -k second_one",
    ),
    Mutant(
        "a foreign file taken for a checkpoint",
        "training/checkpoint.py",
        "if os.path.exists(path):",
        "if False:",
        f"{LOST} -k foreign_file",
    ),
    Mutant(
        "the table of the model overwritten by a sample",
        "model/fitting.py",
        "source_digest=table.digest",
        "source_digest=None",
        f"{LOST} -k place_of_the_model_or_of_its_table",
    ),
    Mutant(
        "NaN weights in a model file",
        "model/stacked_file.py",
        "if not bool(tensor.isfinite().all()):",
        "if False:",
        f"{FILE} -k bad_file",
    ),
    Mutant(
        "huge weights in a model file",
        "model/model_file.py",
        "    _check_answers(found.denoiser, prior, sigma_min)\n",
        "",
        f"{FILE} -k bad_file",
    ),
    Mutant(
        "the kind of a file outside its digest",
        "files/archive.py",
        "json.dumps([kind, version, text])",
        "json.dumps([version, text])",
        f"{FILE} -k part_of_the_digest",
    ),
    Mutant(
        "the conformal rank without the point itself",
        "distillation/checks.py",
        "COVERAGE * (len(ratio) + 1)",
        "COVERAGE * len(ratio)",
        f"{DISTILLATION} -k as_often_as_its_rank",
    ),
    Mutant(
        "the error bars without the factors of their zones",
        "students/density_student.py",
        "error=(self.factors[zone] * error).numpy()",
        "error=error.numpy()",
        f"{DISTILLATION} -k its_own_factor",
    ),
    Mutant(
        "a student's density without its mass",
        "students/density_student.py",
        "value = raw - self.log_mass[kind]",
        "value = raw + self.log_mass[kind]",
        f"{DISTILLATION} -k mass_of_every_class",
    ),
    Mutant(
        "a student that answers everywhere",
        "students/density_student.py",
        "within = (z >= self.low) & (z <= self.high)",
        "within = (z >= self.low) | (z <= self.high)",
        f"{DISTILLATION} -k does_not_know",
    ),
    Mutant(
        "the tolerance of a distilled model ignored",
        "model/densities.py",
        "if plan.tolerance is not None:",
        "if plan.tolerance is None:",
        f"{DISTILLATION} -k tolerance_is_kept",
    ),
    Mutant(
        "the edges of a student at other scales than their offsets",
        "students/network.py",
        "slope * offset",
        "slope.flip(0) * offset",
        f"{DISTILLATION} -k every_scale",
    ),
    Mutant(
        "the sampling student at another level than it learned",
        "model/sampling.py",
        "top = float(levels[0]) if student is None else student.sigma",
        "top = float(levels[0]) / (1 if student is None else 2)",
        f"{DISTILLATION} -k up_to_their_distance",
    ),
    Mutant(
        "settings of sampling that leave the student at work",
        "model/diffusion.py",
        "sampling=replace(sampling or self.sampling, **given) if given else sampling,",
        "sampling=sampling,",
        f"{DISTILLATION} -k with_settings",
    ),
    Mutant(
        "a server that answers under any name",
        "lab/server.py",
        'if self.headers.get("Host") not in self.hosts or (',
        "if (",
        f"{LAB} -k nothing_else",
    ),
    Mutant(
        "a server that answers other sites",
        "lab/server.py",
        "origin and urlsplit(origin).netloc not in self.hosts",
        "origin and not urlsplit(origin).netloc and origin != 'null'",
        f"{LAB} -k nothing_else",
    ),
    Mutant(
        "a server with one answer for every path",
        "lab/server.py",
        'elif urlsplit(self.path).path != "/":',
        'elif urlsplit(self.path).path == "/other":',
        f"{LAB} -k nothing_else",
    ),
    Mutant(
        "a name of a model that ends its attribute",
        "lab/page.py",
        "html.escape(Path(model).name)",
        "Path(model).name",
        f"{LAB} -k is_data",
    ),
    Mutant(
        "the page: a seed without its highest bit",
        f"{PAGE}src/engine/random.ts",
        "(high << 31)",
        "(high << 30)",
        "",
    ),
    Mutant(
        "the page: the inside of an interval with the sign of its outside",
        f"{PAGE}src/engine/interval.ts",
        "2 - atA * tail",
        "2 + atA * tail",
        "",
    ),
    Mutant(
        "the page: correlated normals without their correlation",
        f"{PAGE}src/engine/laws.ts",
        "Math.sqrt(c[2] - k * k)",
        "Math.sqrt(c[2])",
        "",
    ),
    Mutant(
        "the page: the trace of one axis",
        f"{PAGE}src/engine/network.ts",
        "trace[i] = 2 * skip + gain * along",
        "trace[i] = skip + gain * along",
        "",
    ),
    Mutant(
        "the page: the same noise twice",
        f"{PAGE}src/engine/network.ts",
        "sign = c & 1 ? -1 : 1",
        "sign = 1",
        "",
    ),
    Mutant(
        "the page: sines of the level taken for cosines",
        f"{PAGE}src/engine/network.ts",
        "+ 4 + k]! * Math.sin(a)",
        "+ 4 + k]! * Math.cos(a)",
        "",
    ),
    Mutant(
        "the page: labels that are never dropped",
        f"{PAGE}src/engine/training.ts",
        "< config.label_dropout",
        "< 0",
        "",
    ),
    Mutant(
        "the page: a learning rate that does not fall",
        f"{PAGE}src/engine/training.ts",
        "(1 - step / this.steps)",
        "1",
        "",
    ),
    Mutant(
        "the page: a control variate without its mean",
        f"{PAGE}src/engine/training.ts",
        "const known = (s ** 4",
        "const known = 0 * (s ** 4",
        "",
    ),
    Mutant(
        "the page: Langevin steps of another length",
        f"{PAGE}src/engine/solvers.ts",
        "2 * (0.16 * after) ** 2",
        "2 * (0.2 * after) ** 2",
        "",
    ),
    Mutant(
        "the page: guidance from nowhere",
        f"{PAGE}src/engine/solvers.ts",
        "none[i]! + weight *",
        "weight *",
        "",
    ),
    Mutant(
        "the page: the Gaussian's part added to the divergence",
        f"{PAGE}src/engine/flow.ts",
        "trace[i]! - shrunk",
        "trace[i]! + shrunk",
        "",
    ),
    Mutant(
        "the page: a bar without the checks",
        f"{PAGE}src/engine/flow.ts",
        "CAUTION * (Math.abs(tau)",
        "0 * (Math.abs(tau)",
        "",
    ),
    Mutant(
        "the page: a mixture without the bars of its classes",
        f"{PAGE}src/engine/flow.ts",
        "error[i]! += share * parts[c]!.error[i]!",
        "error[i]! += 0",
        "",
    ),
    Mutant(
        "the page: the gradient of the softness with the other sign",
        f"{PAGE}kernel/kernel.ts",
        "load<f32>(gradient) - total *",
        "load<f32>(gradient) + total *",
        "",
    ),
    Mutant(
        "the page: the control variate taken away twice",
        f"{PAGE}src/engine/elbo.ts",
        "- (primitive(to) - primitive(from))",
        "+ (primitive(to) - primitive(from))",
        "",
    ),
    Mutant(
        "the page: a digest that nobody reads",
        f"{PAGE}src/engine/modelfile.ts",
        "stamp.digest !== digestOf(text, tensors)",
        "false",
        "",
    ),
    Mutant(
        "the page: an axis without spread",
        f"{PAGE}src/engine/reference.ts",
        "Math.max(f.variance[0], variance)",
        "f.variance[0]",
        "",
    ),
    Mutant(
        "the page: a square that decays at twice the rate",
        f"{PAGE}kernel/kernel.ts",
        "f32x4.splat(0.001)",
        "f32x4.splat(0.002)",
        "",
    ),
    Mutant(
        "the log-determinant of the power map forgotten",
        "codec/codec.py",
        "            found = found + one.log_slope(x).sum(1).numpy()\n",
        "",
        f"{COLUMNS} -k 'autograd or both_maps'",
    ),
    Mutant(
        "the second term of the gradient in x forgotten",
        "codec/codec.py",
        "inner = inner * one.log_slope(x).exp() + one.grad_log_slope(x)",
        "inner = inner * one.log_slope(x).exp()",
        f"{COLUMNS} -k slope_in_x",
    ),
    Mutant(
        "the power map with the wrong exponent on the left",
        "codec/power.py",
        "torch.where(t >= 0, power, 2 - power)",
        "torch.where(t >= 0, power, power)",
        f"{COLUMNS} -k scikit_learn",
    ),
    Mutant(
        "rounded values spread over half their cells",
        "codec/cells.py",
        "self.step * (u - 0.5), 0.0)",
        "self.step * (u - 0.5) / 2, 0.0)",
        f"{COLUMNS} -k evenly",
    ),
    Mutant(
        "the mass of a cell without its volume",
        "model/densities.py",
        "volume + highest[:, 0, 0] + np.log(mass)",
        "highest[:, 0, 0] + np.log(mass)",
        f"{COLUMNS} -k mass_of_a_cell",
    ),
    Mutant(
        "samples not returned to the grid",
        "model/sampling.py",
        "model.codec.to_x(last(points), snapped=True)",
        "model.codec.to_x(last(points))",
        f"{COLUMNS} -k on_the_grid",
    ),
    Mutant(
        "a fold seen by the mixture that judges it",
        "experts/mixture.py",
        "torch.stack([*(fold != b for b in range(num_folds)), ",
        "torch.stack([*(fold == fold for b in range(num_folds)), ",
        f"{EXPERTS} -k without_the_point",
    ),
    Mutant(
        "a fold seen by the network that it stops",
        "experts/networks.py",
        "rows = [(fold != k).nonzero()[:, 0] for k in range(members)]",
        "rows = [(fold == fold).nonzero()[:, 0] for k in range(members)]",
        f"{EXPERTS} -k own_fold",
    ),
    Mutant(
        "a fold seen by the Gaussian that networks depart from",
        "experts/fitting.py",
        "gaussians = [GaussianExpert(law) for law in single.folds]",
        "gaussians = [GaussianExpert(single.law) for law in single.folds]",
        f"{EXPERTS} -k has_not_seen_it",
    ),
    Mutant(
        "the stack judges with the final mixture",
        "experts/fitting.py",
        "[GaussianExpert(law) for law in mixture.folds],",
        "[GaussianExpert(mixture.law) for law in mixture.folds],",
        f"{EXPERTS} -k has_not_seen_it",
    ),
    Mutant(
        "shrinkage towards each component's own covariance",
        "experts/mixture.py",
        "around = torch.lerp(common, flat, shape.flattening)",
        "around = torch.lerp(scatter / count.clamp(min=1e-9)[..., None, None], flat, shape.flattening)",
        f"{EXPERTS} -k posterior_mode",
    ),
    Mutant(
        "the weights of the candidates shuffled",
        "experts/mixture.py",
        "weight = share * points.frequencies[:, None] * one.share[fit]",
        "weight = (1 - share) * points.frequencies[:, None] * one.share[fit]",
        f"{EXPERTS} -k weighs_the_candidates",
    ),
    Mutant(
        "the optimiser of a table's networks forgotten on resuming",
        "experts/networks.py",
        "self.adam.state[weight] = {",
        "_ = {",
        "tests/test_table_model.py -k as_if_never_interrupted",
    ),
    Mutant(
        "products of two coordinates counted once in the exponent",
        "experts/mixture.py",
        "twice = torch.where(one == other, 0.5, 1.0).to(x)",
        "twice = torch.where(one == other, 0.5, 0.5).to(x)",
        f"{EXPERTS} -k squares_about_0",
    ),
    Mutant(
        "squares about 0 for thin components",
        "experts/mixture.py",
        "return some.farthest < _THIN * self.thinnest",
        "return True",
        f"{EXPERTS} -k careful_way",
    ),
    Mutant(
        "a fold weighs the candidates that judge it",
        "experts/mixture.py",
        "shares = stacked(log_probs, padded.part, fewest)",
        "shares = stacked(log_probs, torch.ones_like(padded.part), fewest)",
        f"{EXPERTS} -k weighs_the_candidates",
    ),
    Mutant(
        "the weights of the stack shuffled",
        "denoisers/stacked.py",
        "zip(self.networks, weights[1:], strict=True)",
        "zip(self.networks, weights[1:].flip(0), strict=True)",
        f"{STACKED} -k formula",
    ),
    Mutant(
        "the mixture's trace without the square of its score",
        "denoisers/gaussian_expert.py",
        ".sum(1) - score.square().sum(1)",
        ".sum(1)",
        f"{STACKED} -k exact_denoiser",
    ),
    Mutant(
        "the closed trace without the scale of the inputs",
        "denoisers/residuals.py",
        "traces = scale * ((slope",
        "traces = ((slope",
        f"{STACKED} -k each_network",
    ),
    Mutant(
        "edges without the slope of tanh",
        "denoisers/residuals.py",
        "ahead * ((1 - bend.square()) / sigma[:, None])",
        "ahead * (1 / sigma[:, None])",
        f"{STACKED} -k each_network",
    ),
    Mutant(
        "the class of a row taken for another's",
        "denoisers/gaussian_expert.py",
        "self.labels[rows] != label[:, None]",
        "self.labels[rows] == label[:, None]",
        f"{STACKED} -k exact_denoiser",
    ),
    Mutant(
        "a p-value without the +1",
        "model/outliers.py",
        "(1 + odder) / (len(model.experts.calibration) + 1)",
        "odder / (len(model.experts.calibration) + 1)",
        f"{ESTIMATORS} -k counts_the",
    ),
    Mutant(
        "a p-value that counts ties as usual",
        "model/outliers.py",
        'found, side="right")',
        '-found, side="right")',
        f"{ESTIMATORS} -k counts_the",
    ),
    Mutant(
        "calibrated on rows that the mixture has seen",
        "experts/fitting.py",
        "found[own] = law.log_prob(z[own], OUTLIER_SIGMA)",
        "found[own] = mixture.law.log_prob(z[own], OUTLIER_SIGMA)",
        f"{ESTIMATORS} -k left_out",
    ),
    Mutant(
        "selection without the number of rows",
        "model/outliers.py",
        "fdr * np.arange(1, len(p) + 1) / max(len(p), 1)",
        "fdr",
        f"{ESTIMATORS} -k hochberg",
    ),
    Mutant(
        "tails from the marginal weights",
        "model/outliers.py",
        "(joint[:, :, None] + standard.square() / 2 + spread.log()).softmax(1)",
        "joint[:, :, None].expand_as(standard).softmax(1)",
        f"{ESTIMATORS} -k conditional_laws",
    ),
    Mutant(
        "probabilities without the temperature",
        "estimators/classifier.py",
        "logits = self.predict_joint_log_proba(X) / self.temperature_",
        "logits = self.predict_joint_log_proba(X)",
        f"{ESTIMATORS} -k temperature",
    ),
    Mutant(
        "a file that forgets the constant columns",
        "model/stacked_file.py",
        "    if codec.constants:\n        tensors",
        "    if not codec:\n        tensors",
        f"{TABLE} -k file_gives",
    ),
    Mutant(
        "a comparison at rows that the model was fitted to",
        "model/comparison.py",
        "train, test = rows_of(table, ~apart), rows_of(table, apart)",
        "train, test = rows_of(table, ~apart), rows_of(table, ~apart)",
        f"{HELD_OUT} -k card_and_in",
    ),
    Mutant(
        "baselines without the volume of the coordinates",
        "baselines.py",
        "log_prob = values + volume",
        "log_prob = values",
        f"{HELD_OUT} -k paired",
    ),
    Mutant(
        "a baseline recommended where the model is better",
        "baselines.py",
        "self.ahead.value < -_CLEAR",
        "self.ahead.value > _CLEAR",
        f"{HELD_OUT} -k recommendation",
    ),
    Mutant(
        "copies judged without the +1",
        "model/copying.py",
        'p = (1 + np.searchsorted(np.sort(usual), ratio, side="right"))',
        'p = (1e-9 + np.searchsorted(np.sort(usual), ratio, side="right"))',
        f"{HELD_OUT} -k memorises_is",
    ),
    Mutant(
        "training rows compared with themselves",
        "model/copying.py",
        "for j, one in enumerate((train, held_out))",
        "for j, one in enumerate((train, train))",
        f"{HELD_OUT} -k memorises_is",
    ),
    Mutant(
        "the standard error of independent points",
        "model/copying.py",
        "variance = ((weight**2).sum() - 1 / n) * n / (4 * (n - 1))",
        "variance = 1 / (4 * len(points))",
        f"{HELD_OUT} -k random_exchanges",
    ),
    Mutant(
        "whole numbers wherever the step is whole",
        "codec/cells.py",
        "self.rounded & (self.step % 1 == 0) & (self.origin % 1 == 0)",
        "self.rounded & (self.step % 1 == 0)",
        f"{HELD_OUT} -k whole_numbers",
    ),
    Mutant(
        "a report that judges by a model that has seen the rows",
        "report/table.py",
        "    fresh.fit_table(train.table, seed",
        "    fresh.fit_table(rows.table, seed",
        f"{REPORT_TABLE} -k not_seen",
    ),
    Mutant(
        "a report that numbers rows after those left out",
        "report/table.py",
        "number = rows.number[found.row - 1]",
        "number = found.row",
        f"{REPORT_TABLE} -k keep_their_numbers",
    ),
    Mutant(
        "bounds without their part of the log-determinant",
        "codec/codec.py",
        "found = found + one.log_slope(x).sum(1).numpy()",
        "found = found + one.log_slope(x).sum(1).numpy() * (one is self.power)",
        f"{BOUNDS} -k mass_one",
    ),
    Mutant(
        "the gradient of bounds with its sign turned at the lower one",
        "codec/bounds.py",
        "-1 / left.expm1()",
        "1 / left.expm1()",
        f"{BOUNDS} -k gradient",
    ),
    Mutant(
        "a bound in the middle of a cell",
        "codec/cells.py",
        "- _NEAR) - 0.5 - 1e-9",
        "- _NEAR)",
        f"{BOUNDS} -k whole_cells",
    ),
    Mutant(
        "a file that forgets which bounds there are",
        "model/stacked_file.py",
        '(("low", -math.inf), ("high", math.inf))',
        '(("low", 0.0), ("high", 0.0))',
        f"{BOUNDS} -k keeps",
    ),
    Mutant(
        "a grid that starts at a multiple of its step, come what may",
        "codec/cells.py",
        "< 1e-9 for one in ends)",
        "< 1e-9 for one in ends[:1])",
        f"{COLUMNS} -k between_the_multiples",
    ),
    Mutant(
        "a shard's rows begin at 0",
        "jobs/operations.py",
        'first_row=settings["first_row"] + shard.rows.start,',
        'first_row=settings["first_row"],',
        "tests/test_jobs.py -k rows_of_all_shards",
    ),
    Mutant(
        "shards of the files in another order",
        "tables/folder.py",
        'own = sorted(one for one in given.iterdir() if not one.name.startswith((".", "_")))',
        'own = sorted((one for one in given.iterdir() if not one.name.startswith((".", "_"))), reverse=True)',
        "tests/test_jobs.py -k order_of_the_names",
    ),
    Mutant(
        "a damaged shard taken for a finished one",
        "jobs/running.py",
        "if folder.size_and_digest(record.name) == (record.size, record.digest):",
        "if folder.size_and_digest(record.name) is not None:",
        "tests/test_jobs.py -k damaged_shards",
    ),
    Mutant(
        "a folder of another job taken",
        "jobs/running.py",
        "        if own != other:",
        "        if False:",
        "tests/test_jobs.py -k another_job_is_refused",
    ),
    Mutant(
        "a second run at the same time let in",
        "jobs/folder.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "tests/test_jobs.py -k second_run",
    ),
    Mutant(
        "a worker that computes other bits let in",
        "jobs/worker.py",
        "        if own.get(name) != value:",
        "        if False:",
        "tests/test_jobs.py -k versions_or_processors",
    ),
    Mutant(
        "rows of a row group counted from its own start",
        "tables/reading.py",
        "    at = int(ends[groups[0]]) - sizes[groups[0]] if groups else 0",
        "    at = 0",
        "tests/test_jobs.py -k any_row_groups",
    ),
    Mutant(
        "a failed cell taken for a finished one",
        "sweeps/running.py",
        'return found is not None and found.get("error", "") is None',
        "return found is not None",
        "tests/test_sweeps.py -k missing_or_failed",
    ),
    Mutant(
        "the factor of the sliced distance left out",
        "metrics.py",
        "return float(math.sqrt(dim * np.mean(",
        "return float(math.sqrt(np.mean(",
        "tests/test_sweeps.py -k sliced_distance",
    ),
    Mutant(
        "the means of parts left out when they are merged",
        "codec/running_moments.py",
        "self.scatter + other.scatter + weight * np.outer(apart, apart)",
        "self.scatter + other.scatter",
        "tests/test_folders.py -k moments_of_parts",
    ),
    Mutant(
        "rows that are kept apart drawn",
        "training/streaming.py",
        "    while len(apart) and (again",
        "    while False and (again",
        "tests/test_folders.py -k kept_apart",
    ),
    Mutant(
        "the first file's rows taken from every file",
        "tables/folder.py",
        "            wanted = rows[low:high] - first",
        "            wanted = rows[low:high] % size",
        "tests/test_folders.py -k any_place",
    ),
    Mutant(
        "auto counts one training row too many",
        "estimators/outliers.py",
        "k = max(math.floor(AUTO * (len(calibration) + 1)) - 1, 0)",
        "k = max(math.floor(AUTO * (len(calibration) + 1)), 0)",
        "tests/test_estimators.py -k auto",
    ),
    Mutant(
        "a training of a sweep counted from 1",
        "sweeps/config.py",
        "itertools.islice(self._trainings(), number, None)",
        "itertools.islice(self._trainings(), number + 1, None)",
        "tests/test_sweeps.py -k product_of_all",
    ),
    Mutant(
        "rows of a folder drawn from its first half alone",
        "training/streaming.py",
        "    found = torch.randint(num_rows, (size,), generator=generator).numpy()",
        "    found = torch.randint(num_rows // 2, (size,), generator=generator).numpy()",
        "tests/test_folders.py -k kept_apart",
    ),
    Mutant(
        "a Ray of ours that asks for no token",
        "jobs/on_ray.py",
        'ray = _ray("token")',
        'ray = _ray("disabled")',
        "tests/test_faults.py -m slow -k fresh_token",
    ),
    Mutant(
        "workers that outlive their driver",
        "jobs/local.py",
        "            os._exit(1)",
        "            pass",
        "tests/test_faults.py -m slow -k long_piece",
    ),
    Mutant(
        "a fold of a table that forgets how it did before it was stopped",
        "experts/networks.py",
        'self.looks, self.losses = given["looks"].tolist(), list(given["losses"])',
        "self.looks, self.losses = [], []",
        "tests/test_faults.py -m slow -k 'killed_training and table' --kills 2",
    ),
    Mutant(
        "the gradient of a process's own points taken for that of the step",
        "training/loop.py",
        "if processes.count > 1:",
        "if processes.count > 9:",
        "tests/test_processes.py -k steps_of_one",
    ),
    Mutant(
        "every part of a step counted alike, whatever its size",
        "training/loop.py",
        "* (len(points) / size)",
        "/ processes.count",
        "tests/test_processes.py -k steps_of_one",
    ),
    Mutant(
        "each process with the first one's noise",
        "training/loop.py",
        "eps = processes.own(torch.randn(size, network.dim, generator=generator))",
        "eps = torch.randn(size, network.dim, generator=generator)[: len(points)]",
        "tests/test_processes.py -k steps_of_one",
    ),
    Mutant(
        "processes that fetch the first one's rows of a folder",
        "training/streaming.py",
        "processes.own(rows) for rows in drawn",
        "rows[: len(processes.own(rows))] for rows in drawn",
        "tests/test_processes.py -k steps_of_one",
    ),
    Mutant(
        "processes with different seeds let in",
        "processes.py",
        "if not torch.equal(square, mean**2):",
        "if False:",
        "tests/test_processes.py -m slow -k refused_in_all",
    ),
    Mutant(
        "a point at the end of a cell rounded out of its bounds",
        "codec/codec.py",
        "if self.bounds is not None:\n                # A point",
        "if self.bounds is None:\n                # A point",
        f"{BOUNDS} -k beside_a_grid",
    ),
]


def outcome(mutant: Mutant) -> str:
    """Return "caught", or what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("toydiffusion", "tests", "web/tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "CHANGELOG.md"):
            shutil.copy(ROOT / name, copy)
        if mutant.file.startswith(PAGE):
            shutil.copytree(
                ROOT / "web",
                copy / "web",
                ignore=shutil.ignore_patterns("node_modules"),
                dirs_exist_ok=True,
            )
            (copy / "web" / "node_modules").symlink_to(ROOT / "web" / "node_modules")
        file = copy / "toydiffusion" / mutant.file
        text = file.read_text()
        if text.count(mutant.old) < 1:
            return "its text is no longer there"
        file.write_text(text.replace(mutant.old, mutant.new))
        command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider -m 'not slow' {mutant.tests}"
        if mutant.file.startswith(PAGE):
            command = "npm --prefix web test --silent"
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            command, shell=True, cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        if run.returncode == 1 and ("FAILED" in run.stdout or "failed" in run.stdout):
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
