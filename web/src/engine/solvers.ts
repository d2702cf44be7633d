/** Samplers: the twin of `toydiffusion.solvers`, one noise level at a time. */

import type { Law } from "./laws";
import { RowNoise } from "./random";
import { Reference } from "./reference";
import { Schedule, lerp } from "./schedules";
import { legendre } from "./special";
import type { Denoiser, Labels } from "./types";

interface RungeKutta {
  kind: "runge-kutta";
  a: number[][];
  b: number[];
  c: number[];
}
interface Multistep {
  kind: "multistep";
  order: number;
}
interface Adams {
  kind: "adams";
  order: number;
}
interface ReverseSDE {
  kind: "sde";
  corrections: number;
}
type Solver = RungeKutta | Multistep | Adams | ReverseSDE;

export const SOLVERS: Record<string, Solver> = {
  adams: { kind: "adams", order: 3 },
  euler: { kind: "runge-kutta", a: [[]], b: [1], c: [0] },
  heun: { kind: "runge-kutta", a: [[], [1]], b: [0.5, 0.5], c: [0, 1] },
  rk4: {
    kind: "runge-kutta",
    a: [[], [0.5], [0, 0.5], [0, 0, 1]],
    b: [1 / 6, 1 / 3, 1 / 3, 1 / 6],
    c: [0, 0.5, 0.5, 1],
  },
  multistep2: { kind: "multistep", order: 2 },
  multistep3: { kind: "multistep", order: 3 },
  "euler-maruyama": { kind: "sde", corrections: 0 },
  "predictor-corrector": { kind: "sde", corrections: 1 },
};

/** How to sample: the fields of `toydiffusion.SampleConfig`. */
export interface SampleConfig {
  steps: number;
  solver: string;
  schedule: string | null;
  sigma_start: number | null;
  guidance: number;
  churn: number;
}

export const SAMPLING: SampleConfig = {
  steps: 15,
  solver: "adams",
  schedule: null,
  sigma_start: null,
  guidance: 1,
  churn: 0,
};

/** The noise levels, descending, without the last one, which is 0. */
export function levelsOf(plan: SampleConfig, sigmaMin: number, sigmaMax: number): number[] {
  const { steps } = plan, adams = SOLVERS[plan.solver]!.kind === "adams";
  let top: number;
  if (plan.sigma_start !== null) top = plan.sigma_start;
  else if (adams) top = Math.min(0.6 * steps, sigmaMax);
  else {
    const cut = Math.min((steps - 1) * Math.log(1 / 0.6), Math.log(sigmaMax / sigmaMin));
    top = Math.min(Math.max(sigmaMin * Math.exp(cut), 1.5), sigmaMax);
  }
  if (steps === 1) return [top];
  if (adams && plan.schedule === null) {
    const low = Math.max(sigmaMin, Math.min(0.4 * (steps - 1) ** -1.3, top / 2));
    const p = (1 + (3 / steps) ** 2) / 2, first = Math.atan(top) ** p, last = Math.atan(low) ** p;
    const levels = Array.from({ length: steps }, (_, i) =>
      Math.tan(lerp(first, last, i / (steps - 1)) ** (1 / p)),
    );
    levels[0] = top;
    levels[steps - 1] = low;
    return levels;
  }
  return new Schedule(plan.schedule ?? "exp", sigmaMin, top).levels(steps - 1);
}

/** Classifier-free guidance: `D_none + weight (D_label - D_none)`. */
export function guided(denoiser: Denoiser, weight: number): Denoiser {
  if (weight === 1) return denoiser;
  return {
    denoise(z, sigma, label, out) {
      const none = new Float64Array(out.length);
      denoiser.denoise(z, sigma, null, none);
      denoiser.denoise(z, sigma, label, out);
      for (let i = 0; i < out.length; i++) out[i] = none[i]! + weight * (out[i]! - none[i]!);
    },
  };
}

/** Standard normal noise for all rows, a new one at each call. */
export type Fresh = (n: number) => Float64Array;

/** The noise of the reverse process of this seed: that of Python. */
export function freshNoise(seed: number, firstRow = 0): Fresh {
  const noise = new RowNoise(seed, "reverse noise");
  let step = 0;
  return (n) => noise.normal(firstRow, firstRow + n, 2, step++);
}

const QUADRATURE = legendre(48);

/** The weights of the last values in a correction and the step to `after`, along an axis of this variance. */
function adamsWeights(
  variance: number, after: number, nodes: number[], order: number, unit: number, relaxation: number,
): number[] {
  const [here, ...before] = nodes as [number, ...number[]];
  const weights = adamsIntegrals(variance, here, after, nodes.slice(0, order - 1), unit);
  while (weights.length < nodes.length) weights.push(0);
  if (before.length > 0 && relaxation > 0) {
    const corrected = adamsIntegrals(variance, before[0]!, here, nodes, unit);
    const predicted = adamsIntegrals(variance, before[0]!, here, before, unit);
    corrected.forEach((w, j) => (weights[j]! += relaxation * (w - (j > 0 ? predicted[j - 1]! : 0))));
  }
  return weights;
}

/** The integrals of the Lagrange basis of the nodes over a step, along an axis of this variance. */
function adamsIntegrals(
  variance: number, sigma: number, after: number, nodes: number[], unit: number,
): number[] {
  const root = Math.sqrt(variance);
  const begin = Math.asinh(sigma / root), end = Math.asinh(after / root);
  const at = nodes.map((node) => Math.asinh(node / unit));
  const weights = at.map(() => 0);
  QUADRATURE.nodes.forEach((s, k) => {
    const q = begin + ((end - begin) * (s + 1)) / 2;
    const v = Math.asinh((root * Math.sinh(q)) / unit);
    const measure = (((end - begin) / (root * Math.cosh(q))) * QUADRATURE.weights[k]!) / 2;
    at.forEach((here, j) => {
      let basis = measure;
      at.forEach((other, i) => {
        if (i !== j) basis *= (v - other) / (here - other);
      });
      weights[j]! += basis;
    });
  });
  return weights;
}

const GAUSS24 = legendre(24);

/** The weights of an exponential multistep method: `int_0^h e^(s - h) L_j(s) ds`. */
function exponentialWeights(step: number, nodes: number[]): number[] {
  return nodes.map((node, j) => {
    let sum = 0;
    GAUSS24.nodes.forEach((x, k) => {
      const s = (step * (x + 1)) / 2;
      let basis = ((GAUSS24.weights[k]! * step) / 2) * Math.exp(s - step);
      nodes.forEach((other, i) => {
        if (i !== j) basis *= (s - other) / (node - other);
      });
      sum += basis;
    });
    return sum;
  });
}

/** What `trajectory` shows after each step: the points, their level, and the evaluations so far. */
export interface Stage {
  z: Float64Array;
  sigma: number;
}

/**
 * Yield the points (n, 2) at each noise level, and finally the clean points, at level 0.
 *
 * `law` holds the moments of the data, for the method of Adams.
 */
export function* trajectory(
  denoiser: Denoiser,
  start: Float64Array,
  levels: number[],
  solver: Solver,
  label: Labels,
  fresh: Fresh,
  law: Law,
  churn = 0,
): Generator<Stage> {
  const n = start.length / 2;
  const denoise = (z: Float64Array, sigma: number): Float64Array => {
    const out = new Float64Array(2 * n);
    denoiser.denoise(z, sigma, label, out);
    return out;
  };
  yield { z: start, sigma: levels[0]! };
  let z = start;
  const last = levels[levels.length - 1]!;
  switch (solver.kind) {
    case "adams":
      yield* adams(denoise, start, [...levels, 0], solver.order, Reference.of(law, label));
      return;
    case "runge-kutta": {
      const gain = 1 + Math.min(churn / Math.max(levels.length - 1, 1), Math.SQRT2 - 1);
      for (let i = 0; i + 1 < levels.length; i++) {
        let sigma = levels[i]!;
        const after = levels[i + 1]!;
        if (gain > 1) {
          const noise = fresh(n), size = Math.sqrt((sigma * gain) ** 2 - sigma ** 2);
          z = z.map((v, j) => v + size * noise[j]!);
          sigma *= gain;
        }
        const h = after - sigma, slopes: Float64Array[] = [];
        const moved = (weights: number[]): Float64Array =>
          z.map((v, j) => v + h * weights.reduce((sum, w, k) => sum + (w ? w * slopes[k]![j]! : 0), 0));
        solver.a.forEach((row, stage) => {
          const inner = moved(row), level = sigma + solver.c[stage]! * h, clean = denoise(inner, level);
          slopes.push(inner.map((v, j) => (v - clean[j]!) / level));
        });
        z = moved(solver.b);
        yield { z, sigma: after };
      }
      break;
    }
    case "multistep": {
      let past: [number, Float64Array][] = [];
      for (let i = 0; i + 1 < levels.length; i++) {
        const sigma = levels[i]!, after = levels[i + 1]!;
        const now = -Math.log(sigma), h = Math.log(sigma / after);
        const ahead = (known: [number, Float64Array][]): Float64Array => {
          const weights = exponentialWeights(h, known.map(([at]) => at - now));
          return z.map((v, j) => known.reduce((sum, [, d], k) => sum + weights[k]! * d[j]!, Math.exp(-h) * v));
        };
        past = [[now, denoise(z, sigma)] as [number, Float64Array], ...past].slice(0, solver.order);
        let next = ahead(past);
        if (solver.order > 2 && past.length === 1) next = ahead([...past, [now + h, denoise(next, after)]]);
        z = next;
        yield { z, sigma: after };
      }
      break;
    }
    case "sde":
      for (let i = 0; i + 1 < levels.length; i++) {
        const after = levels[i + 1]!;
        z = kick(denoise, z, levels[i]!, levels[i]! ** 2 - after ** 2, 1, fresh);
        for (let k = 0; k < solver.corrections; k++) {
          z = kick(denoise, z, after, 2 * (0.16 * after) ** 2, 2, fresh);
        }
        yield { z, sigma: after };
      }
  }
  yield { z: denoise(z, last), sigma: 0 };
}

/** `z + delta score + sqrt(spread delta) eps`. */
function kick(
  denoise: (z: Float64Array, sigma: number) => Float64Array,
  z: Float64Array, sigma: number, delta: number, spread: number, fresh: Fresh,
): Float64Array {
  const clean = denoise(z, sigma), noise = fresh(z.length / 2), size = Math.sqrt(spread * delta);
  return z.map((v, j) => v + (delta * (clean[j]! - v)) / sigma ** 2 + size * noise[j]!);
}

function* adams(
  denoise: (z: Float64Array, sigma: number) => Float64Array,
  start: Float64Array, levels: number[], order: number, whole: Reference,
): Generator<Stage> {
  const unit = 4 * (levels[levels.length - 1]! || levels[levels.length - 2]!), n = start.length / 2;
  const relaxation = 1 - 2 / Math.max(levels.length - 1, 2);
  const { kind, mean, axes, variance } = whole.widened((1e-6 * unit) ** 2).tables(n);
  const spreads = (sigma: number): Float64Array => variance.map((v) => Math.sqrt(v + sigma * sigma));
  const y = new Float64Array(2 * n);
  let spread = spreads(levels[0]!);
  for (let i = 0; i < n; i++) {
    const c = 2 * kind[i]!, dx = start[2 * i]! - mean[c]!, dy = start[2 * i + 1]! - mean[c + 1]!;
    y[2 * i] = (axes[2 * c]! * dx + axes[2 * c + 1]! * dy) / spread[c]!;
    y[2 * i + 1] = (axes[2 * c + 2]! * dx + axes[2 * c + 3]! * dy) / spread[c + 1]!;
  }
  let z = start, past: { sigma: number; value: Float64Array }[] = [];
  for (let step = 0; step + 1 < levels.length; step++) {
    const sigma = levels[step]!, after = levels[step + 1]!;
    const clean = denoise(z, sigma), value = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      const c = 2 * kind[i]!, dx = clean[2 * i]! - mean[c]!, dy = clean[2 * i + 1]! - mean[c + 1]!;
      const a = axes[2 * c]! * dx + axes[2 * c + 1]! * dy, b = axes[2 * c + 2]! * dx + axes[2 * c + 3]! * dy;
      value[2 * i] = (variance[c]! * y[2 * i]! - spread[c]! * a) / sigma;
      value[2 * i + 1] = (variance[c + 1]! * y[2 * i + 1]! - spread[c + 1]! * b) / sigma;
    }
    past = [{ sigma, value }, ...past].slice(0, order);
    const nodes = past.map((one) => one.sigma);
    const weights = [...variance].map((v) => adamsWeights(v, after, nodes, order, unit, relaxation));
    past.forEach((one, j) => {
      const own = weights.map((w) => w[j]!);
      for (let i = 0; i < n; i++) {
        const c = 2 * kind[i]!;
        y[2 * i]! += own[c]! * one.value[2 * i]!;
        y[2 * i + 1]! += own[c + 1]! * one.value[2 * i + 1]!;
      }
    });
    spread = spreads(after);
    const next = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      const c = 2 * kind[i]!, a = y[2 * i]! * spread[c]!, b = y[2 * i + 1]! * spread[c + 1]!;
      next[2 * i] = mean[c]! + axes[2 * c]! * a + axes[2 * c + 2]! * b;
      next[2 * i + 1] = mean[c + 1]! + axes[2 * c + 1]! * a + axes[2 * c + 3]! * b;
    }
    z = next;
    yield { z, sigma: after };
  }
}
