/** The evidence lower bound of one point, noise level by noise level (`density.elbo`). */

import type { Law } from "./laws";
import { RowNoise } from "./random";
import { Reference } from "./reference";
import type { Denoiser, Labels } from "./types";

/** Bins of log sigma, and noises for each. */
const BINS = 48, DRAWS = 32;

export interface Elbo {
  /** `reconstruction + diffusion + prior`, in nats. */
  value: number;
  stdError: number;
  reconstruction: number;
  diffusion: number;
  prior: number;
  /** The noise levels at the middle of the bins, and what each bin adds to `diffusion`. */
  sigma: number[];
  parts: number[];
}

/**
 * The bound at a point in z: `diffusion = -int E|z0 - D(z0 + sigma eps)|^2 / sigma^2 dlog sigma`.
 *
 * A control variate, the same integral for the Gaussian of the data's moments, removes most of the noise.
 * `power` 1 leaves the square out, as the original project did: the result bounds nothing.
 */
export function elbo(
  denoiser: Denoiser, law: Law, z0: readonly [number, number], label: number | null,
  sigmaMin: number, sigmaMax: number, seed: number, power: 1 | 2 = 2,
): Elbo {
  const low = Math.log(sigmaMin), width = Math.log(sigmaMax / sigmaMin) / BINS, n = BINS * DRAWS;
  const labels: Labels = label === null ? null : new Int32Array(n).fill(label);
  const f = Reference.of(law, labels).frames[label ?? 0]!;
  const eps = new RowNoise(seed, "elbo noise").normal(0, n, 2), jitter = new RowNoise(seed, "elbo").uniform(0, n, 1);
  const sigma = jitter.map((u, i) => Math.exp(low + (Math.floor(i / DRAWS) + u) * width));
  const z = eps.map((e, i) => z0[i & 1]! + sigma[i >> 1]! * e), clean = new Float64Array(2 * n);
  denoiser.denoise(z, sigma, labels, clean);

  const away: [number, number] = [z0[0] - f.mean[0], z0[1] - f.mean[1]];
  const arm = [0, 1].map((k) => f.axes[2 * k]! * away[0] + f.axes[2 * k + 1]! * away[1]);
  // Along an axis of variance v, at distance a: 1/2 int (s^4 a^2 + s^2 v^2) / (v + s^2)^2 dSNR in closed form.
  const primitive = (s: number): number =>
    f.variance.reduce((sum, v, k) => {
      const tau = s * s;
      return sum + (Math.log(tau) - Math.log(v + tau) + (v - arm[k]! ** 2) / (v + tau)) / 2;
    }, 0);
  const parts: number[] = [], totals = new Float64Array(DRAWS);
  for (let b = 0; b < BINS; b++) {
    let sum = 0;
    for (let r = 0; r < DRAWS; r++) {
      const i = b * DRAWS + r, s = sigma[i]!;
      let ours = 0, gaussian = 0;
      for (let k = 0; k < 2; k++) {
        ours += (z0[k]! - clean[2 * i + k]!) ** 2;
        // The Gaussian's error along axis k: (s^2 a - v s e) / (v + s^2), e the noise along it.
        const e = f.axes[2 * k]! * eps[2 * i]! + f.axes[2 * k + 1]! * eps[2 * i + 1]!, v = f.variance[k]!;
        gaussian += ((s * s * arm[k]! - v * s * e) / (v + s * s)) ** 2;
      }
      const term = power === 2 ? ours - gaussian : Math.sqrt(ours);
      const value = (-width * term) / (s * s);
      sum += value / DRAWS;
      totals[r]! += value;
    }
    const [from, to] = [Math.exp(low + b * width), Math.exp(low + (b + 1) * width)];
    parts.push(power === 2 ? sum - (primitive(to) - primitive(from)) : sum);
  }
  const mean = totals.reduce((a, b) => a + b, 0) / DRAWS;
  const spread = totals.reduce((sum, t) => sum + (t - mean) ** 2, 0) / (DRAWS - 1);
  const diffusion = parts.reduce((a, b) => a + b, 0);
  const reconstruction = -Math.log(2 * Math.PI * Math.E * sigmaMin ** 2);
  const top = sigmaMax ** 2;
  const prior = f.variance.reduce(
    (sum, v, k) => sum - (Math.log((v + top) / top) + (arm[k]! ** 2 + top) / (v + top) - 1) / 2,
    0,
  );
  return {
    value: reconstruction + diffusion + prior,
    stdError: Math.sqrt(spread / DRAWS),
    reconstruction,
    diffusion,
    prior,
    sigma: parts.map((_, b) => Math.exp(low + (b + 0.5) * width)),
    parts,
  };
}
