/** The noised uniform interval, without cancellation: the scalar twin of `distributions.interval`. */

import { erfcx, legendre } from "./special";

const GAUSS = legendre(8);
const NODE = GAUSS.nodes.map((x) => (x + 1) / 2);
const WEIGHT = GAUSS.weights.map((w) => w / 2);
const HALF_LOG_TAU = Math.log(2 * Math.PI) / 2;

/** The log-density of the last call, and the posterior mean: two numbers without an object. */
export const answer = { logDensity: 0, mean: 0 };

/**
 * Put the log-density at `x = y + sigma eps`, y uniform on [low, high], and `E[y | x]` into `answer`.
 *
 * See `toydiffusion/distributions/interval.py` for the formulas of narrow and wide intervals.
 */
export function interval(x: number, sigma: number, low: number, high: number): void {
  const width = high - low;
  if (sigma === 0) {
    answer.logDensity = low <= x && x <= high ? -Math.log(width) : -Infinity;
    answer.mean = Math.min(Math.max(x, low), high);
    return;
  }
  const side = x - (low + width / 2) < 0 ? -1 : 1;
  const end = side > 0 ? high : low;
  const a = (side * (x - end)) / sigma, w = width / sigma;
  const out = a > 0 ? a : 0, into = a > 0 ? 0 : a, away = out - into;
  let mean: number;
  if (w * (away + w / 2) < 0.5) {
    let mass = 0, moment = 0;
    for (let i = 0; i < 8; i++) {
      const node = NODE[i]!;
      const part = WEIGHT[i]! * Math.exp(-node * a * w - ((node * node) / 2) * w * w);
      mass += part;
      moment += node * part;
    }
    answer.logDensity = Math.log(mass) - (a * a) / 2 - HALF_LOG_TAU - Math.log(sigma);
    mean = end - side * width * (moment / mass);
  } else {
    const b = a + w;
    const atA = Math.exp((-into * into) / 2), atB = Math.exp((-(w + into) * (b + out)) / 2);
    const tail = erfcx(away * Math.SQRT1_2);
    const mass = (a > 0 ? tail : 2 - atA * tail) - atB * erfcx(b * Math.SQRT1_2);
    answer.logDensity = Math.log(mass) - (out * out) / 2 - Math.log(2 * width);
    mean = x - side * sigma * Math.sqrt(2 / Math.PI) * ((atA - atB) / mass);
  }
  answer.mean = Math.min(Math.max(mean, low), high);
}
