/** Log-densities of a model by the probability flow, with error bars (`toydiffusion.density`). */

import type { Law } from "./laws";
import type { Network } from "./network";
import { Reference } from "./reference";
import { logSumExp } from "./special";
import type { Labels } from "./types";

/** A model as the flow sees it: in z, with labels only where a class is asked for. */
export interface FlowModel {
  network: Network;
  /** The Gaussian of the data's moments, for each class. */
  prior: Law;
  sigmaMin: number;
  sigmaMax: number;
}

/** Log-densities `value` (n,) in nats, their numerical error bars, and evaluations of the network. */
export interface LogDensities {
  value: Float64Array;
  error: Float64Array;
  evaluations: number;
  /** The probability of each class (n, K); null without labels. */
  classes: Float64Array | null;
}

const CAUTION = 0.4, LENGTH = 0.53, ORDER = 5, AROUND = 8;
/** Rows that go through all steps together. */
const ROWS = 2048;

/** The weights of the values at these nodes in the integral of their polynomial over (0, 1). */
function weightsOf(first: number, count: number, direction: 1 | -1): number[] {
  const nodes = Array.from({ length: count }, (_, j) => first + direction * j);
  const rows = nodes.map((_, p) => [...nodes.map((node) => node ** p), 1 / (p + 1)]);
  for (let i = 0; i < count; i++) {
    let pivot = i;
    for (let r = i + 1; r < count; r++) if (Math.abs(rows[r]![i]!) > Math.abs(rows[pivot]![i]!)) pivot = r;
    [rows[i], rows[pivot]] = [rows[pivot]!, rows[i]!];
    for (let r = 0; r < count; r++) {
      if (r === i) continue;
      const factor = rows[r]![i]! / rows[i]![i]!;
      for (let c = i; c <= count; c++) rows[r]![c]! -= factor * rows[i]![c]!;
    }
  }
  return rows.map((row, i) => row[count]! / row[i]!);
}

function stepsFor(tolerance: number, span: number): number {
  return Math.max(Math.ceil(span / (LENGTH * tolerance ** (1 / 5))), AROUND);
}

/** `start + h sum_k weights_k values_k`. */
function combined(start: Float64Array, weights: number[], values: Float64Array[], h: number): Float64Array {
  const out = start.slice();
  values.forEach((value, k) => {
    const w = h * weights[k]!;
    for (let j = 0; j < out.length; j++) out[j]! += w * value[j]!;
  });
  return out;
}

/** Adams' method of order 5 from sigma_min up to sigma_max, and each step again through eight slopes. */
function evenSteps(
  model: FlowModel, z: Float64Array, label: Labels, steps: number,
): { value: Float64Array; error: Float64Array; depth: Float64Array } {
  const n = z.length / 2, reference = Reference.of(model.prior, label), { sigmaMin, sigmaMax } = model;
  const { covariance } = model.prior.moments;
  const knee = 4 * Math.sqrt((covariance[0] + covariance[2]) / 2);
  const time = (sigma: number): number => Math.log(sigma / (knee + sigma));
  const begin = time(sigmaMin), goal = time(sigmaMax), h = (goal - begin) / steps;

  const { kind, mean, axes, variance } = reference.tables(n);
  const spread = new Float64Array(variance.length);
  const spreadAt = (sigma: number): void => variance.forEach((v, k) => (spread[k] = Math.sqrt(v + sigma * sigma)));
  const at = new Float64Array(2 * n), clean = new Float64Array(2 * n), trace = new Float64Array(n);
  const start = new Float64Array(3 * n);
  spreadAt(sigmaMin);
  for (let i = 0; i < n; i++) {
    const c = 2 * kind[i]!, dx = z[2 * i]! - mean[c]!, dy = z[2 * i + 1]! - mean[c + 1]!;
    start[3 * i] = (axes[2 * c]! * dx + axes[2 * c + 1]! * dy) / spread[c]!;
    start[3 * i + 1] = (axes[2 * c + 2]! * dx + axes[2 * c + 3]! * dy) / spread[c + 1]!;
  }
  // Slope of (y, g); and how a displacement of y acts on log p and in noise levels.
  const rate = (state: Float64Array, u: number, steep: Float64Array | null): Float64Array => {
    const sigma = (knee * Math.exp(u)) / -Math.expm1(u), ds = 1 + sigma / knee, square = sigma * sigma;
    spreadAt(sigma);
    for (let i = 0; i < n; i++) {
      const c = 2 * kind[i]!, a = state[3 * i]! * spread[c]!, b = state[3 * i + 1]! * spread[c + 1]!;
      at[2 * i] = mean[c]! + axes[2 * c]! * a + axes[2 * c + 2]! * b;
      at[2 * i + 1] = mean[c + 1]! + axes[2 * c + 1]! * a + axes[2 * c + 3]! * b;
    }
    model.network.denoiseWithTrace(at, sigma, label, clean, trace);
    const slope = new Float64Array(3 * n);
    for (let i = 0; i < n; i++) {
      const c = 2 * kind[i]!, dx = clean[2 * i]! - mean[c]!, dy = clean[2 * i + 1]! - mean[c + 1]!;
      let shrunk = 0;
      for (let k = 0; k < 2; k++) {
        const turned = axes[2 * c + 2 * k]! * dx + axes[2 * c + 2 * k + 1]! * dy;
        const y = state[3 * i + k]!, s = spread[c + k]!, shrinkage = variance[c + k]! / (s * s);
        shrunk += shrinkage;
        slope[3 * i + k] = ds * (shrinkage * y - turned / s);
        if (steep) {
          steep[4 * i + k] = ((turned - s * y) / square) * s;
          steep[4 * i + 2 + k] = s / sigma;
        }
      }
      slope[3 * i + 2] = ds * (trace[i]! - shrunk);
    }
    return slope;
  };

  const slopes = [rate(start, begin, null)], moves: Float64Array[] = [], steepness: Float64Array[] = [];
  let here: Float64Array = start;
  for (let step = 1; step <= steps; step++) {
    const before = slopes.slice(-(ORDER - 1)).reverse();
    const predict = weightsOf(0, before.length, -1), correct = weightsOf(1, before.length + 1, -1);
    const ahead = combined(here, predict, before, h);
    const steep = new Float64Array(4 * n);
    const slope = rate(ahead, begin + ((goal - begin) * step) / steps, steep);
    const next = combined(here, correct, [slope, ...before], h);
    moves.push(combined(next, [-1], [here], 1));
    here = next;
    slopes.push(slope);
    steepness.push(steep);
  }

  const final = start.slice(), error = new Float64Array(n);
  for (let step = 0; step < steps; step++) {
    const first = Math.min(Math.max(step + 1 - AROUND / 2, 0), steps + 1 - AROUND);
    const weights = weightsOf(first - step, AROUND, 1), steep = steepness[step]!;
    const again = combined(new Float64Array(3 * n), weights, slopes.slice(first, first + AROUND), h);
    for (let i = 0; i < n; i++) {
      let tau = 0, r = 0;
      for (let k = 0; k < 3; k++) {
        const j = 3 * i + k, e = moves[step]![j]! - again[j]!;
        final[j]! += again[j]!;
        if (k === 2) tau += e;
        else {
          tau -= steep[4 * i + k]! * e;
          r += (steep[4 * i + 2 + k]! * e) ** 2;
        }
      }
      error[i]! += CAUTION * (Math.abs(tau) + Math.sqrt(r));
    }
  }

  const value = new Float64Array(n), depth = new Float64Array(n), single = 2 ** -23;
  const nats = (state: Float64Array, i: number): number =>
    (state[3 * i]! ** 2 + state[3 * i + 1]! ** 2) / 2 + Math.abs(state[3 * i + 2]!);
  spreadAt(sigmaMin);
  for (let i = 0; i < n; i++) {
    const c = 2 * kind[i]!, height = -Math.log(2 * Math.PI) - Math.log(spread[c]! * spread[c + 1]!);
    value[i] = height - (final[3 * i]! ** 2 + final[3 * i + 1]! ** 2) / 2 - final[3 * i + 2]!;
    depth[i] = Math.max(nats(start, i) / 10, nats(final, i) / 10, 1);
    error[i]! += 2 * single * Math.sqrt(steps + 1) * (1 + nats(final, i));
  }
  return { value, error, depth };
}

/** Log-densities under given labels, finer where the bar is too wide: up to 16 times as many steps. */
function under(model: FlowModel, z: Float64Array, label: Labels, tolerance: number, refine: boolean): LogDensities {
  const { covariance } = model.prior.moments, knee = 4 * Math.sqrt((covariance[0] + covariance[2]) / 2);
  const time = (sigma: number): number => Math.log(sigma / (knee + sigma));
  let steps = stepsFor(tolerance, time(model.sigmaMax) - time(model.sigmaMin));
  const n = z.length / 2, value = new Float64Array(n), error = new Float64Array(n).fill(Infinity);
  let left = Array.from({ length: n }, (_, i) => i), evaluations = 0;
  for (let round = 0; left.length && round < (refine ? 5 : 1); round++, steps *= 2) {
    evaluations += steps + 1;
    const wide: number[] = [];
    for (let first = 0; first < left.length; first += ROWS) {
      const rows = left.slice(first, first + ROWS);
      const some = Float64Array.from(rows.flatMap((i) => [z[2 * i]!, z[2 * i + 1]!]));
      const found = evenSteps(model, some, label && Int32Array.from(rows, (i) => label[i]!), steps);
      rows.forEach((i, r) => {
        if (found.error[r]! < error[i]!) {
          value[i] = found.value[r]!;
          error[i] = found.error[r]!;
        }
        if (!(error[i]! <= tolerance * found.depth[r]!)) wide.push(i);
      });
    }
    left = wide;
  }
  return { value, error, evaluations, classes: null };
}

/**
 * Log-densities in nats of points z (n, 2), at sigma_min. Label null: the mixture of the classes.
 *
 * `tolerance` is the error bar asked for, in nats. Without `refine` every point takes the same steps once.
 */
export function logProb(
  model: FlowModel, z: Float64Array, label: Labels, tolerance = 0.002, refine = true,
): LogDensities {
  const { numClasses, frequencies } = model.prior, n = z.length / 2;
  if (label || numClasses === 1) return under(model, z, numClasses > 1 ? label : null, tolerance, refine);
  const parts = Array.from({ length: numClasses }, (_, c) =>
    under(model, z, new Int32Array(n).fill(c), tolerance, refine),
  );
  const value = new Float64Array(n), error = new Float64Array(n), classes = new Float64Array(n * numClasses);
  for (let i = 0; i < n; i++) {
    const joint = parts.map((part, c) => part.value[i]! + Math.log(frequencies[c]!));
    value[i] = logSumExp(joint);
    joint.forEach((one, c) => {
      const share = Math.exp(one - value[i]!);
      classes[i * numClasses + c] = share;
      error[i]! += share * parts[c]!.error[i]!;
    });
  }
  return { value, error, evaluations: parts.reduce((sum, part) => sum + part.evaluations, 0), classes };
}
