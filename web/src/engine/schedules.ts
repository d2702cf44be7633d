/** Schedules: monotone maps from time to noise level, as in `toydiffusion.schedules`. */

import type { Generator } from "./random";
import { ndtr, ndtri } from "./special";

interface Formula {
  /** The noise level at time t. */
  sigma(t: number): number;
  /** Its inverse. */
  t(sigma: number): number;
  /** d sigma / dt. */
  slope(t: number): number;
  /** The factor that shrinks the data; 1 in a process that only adds noise. */
  alpha(t: number): number;
  /** How a person reads it. */
  text: string;
}

const one = (): number => 1;

function karras(low: number, high: number): Formula {
  const rho = 7, first = low ** (1 / rho), span = high ** (1 / rho) - first;
  return {
    sigma: (t) => (first + t * span) ** rho,
    t: (sigma) => (sigma ** (1 / rho) - first) / span,
    slope: (t) => rho * span * (first + t * span) ** (rho - 1),
    alpha: one,
    text: "σ^(1/7) linear in t",
  };
}

function variancePreserving(): Formula {
  const least = 0.1, slope = 20 - 0.1;
  const integral = (t: number): number => least * t + (slope * t * t) / 2;
  const sigma = (t: number): number => Math.sqrt(Math.expm1(integral(t)));
  return {
    sigma,
    t: (s) => {
      const i = Math.log1p(s * s);
      return (2 * i) / (least + Math.sqrt(least * least + 2 * slope * i));
    },
    slope: (t) => ((least + t * slope) * (1 + sigma(t) ** 2)) / (2 * sigma(t)),
    alpha: (t) => Math.exp(-integral(t) / 2),
    text: "σ = √(e^∫β − 1)",
  };
}

const MEAN = -1.2, STD = 1.6;

const FORMULAS: Record<string, (low: number, high: number) => Formula> = {
  exp: () => ({
    sigma: (t) => Math.exp(5 * (t - 1)),
    t: (sigma) => 1 + Math.log(sigma) / 5,
    slope: (t) => 5 * Math.exp(5 * (t - 1)),
    alpha: one,
    text: "σ = e^(5(t−1))",
  }),
  linear: () => ({ sigma: (t) => t, t: (sigma) => sigma, slope: one, alpha: one, text: "σ = t" }),
  sqrt: () => ({
    sigma: Math.sqrt,
    t: (sigma) => sigma * sigma,
    slope: (t) => 0.5 / Math.sqrt(t),
    alpha: one,
    text: "σ = √t",
  }),
  karras,
  lognormal: () => ({
    sigma: (t) => Math.exp(MEAN + STD * ndtri(t)),
    t: (sigma) => ndtr((Math.log(sigma) - MEAN) / STD),
    slope: (t) => {
      const q = ndtri(t);
      return Math.exp(MEAN + STD * q) * STD * Math.sqrt(2 * Math.PI) * Math.exp((q * q) / 2);
    },
    alpha: one,
    text: "log σ normal",
  }),
  vp: variancePreserving,
  cosine: () => ({
    sigma: (t) => Math.tan((Math.PI * t) / 2),
    t: (sigma) => (2 * Math.atan(sigma)) / Math.PI,
    slope: (t) => (Math.PI / 2) * (1 + Math.tan((Math.PI * t) / 2) ** 2),
    alpha: (t) => Math.cos((Math.PI * t) / 2),
    text: "σ = tan(πt/2)",
  }),
  "flow-matching": () => ({
    sigma: (t) => t / (1 - t),
    t: (sigma) => sigma / (1 + sigma),
    slope: (t) => 1 / (1 - t) ** 2,
    alpha: (t) => 1 - t,
    text: "σ = t/(1−t)",
  }),
};

export const SCHEDULES = Object.keys(FORMULAS);

/** `start + u (end - start)`, exact at both ends. */
export function lerp(start: number, end: number, u: number): number {
  return u < 0.5 ? start + u * (end - start) : end - (end - start) * (1 - u);
}

/** A schedule over a range of noise levels. */
export class Schedule {
  readonly formula: Formula;
  private readonly first: number;
  private readonly last: number;

  constructor(
    readonly name: string,
    readonly sigmaMin: number,
    readonly sigmaMax: number,
  ) {
    this.formula = FORMULAS[name]!(sigmaMin, sigmaMax);
    this.first = this.formula.t(sigmaMin);
    this.last = this.formula.t(sigmaMax);
  }

  /** sigma at u in [0, 1]: sigma_min at 0, sigma_max at 1. */
  at(u: number): number {
    const sigma = this.formula.sigma(lerp(this.first, this.last, u));
    return Math.min(Math.max(sigma, this.sigmaMin), this.sigmaMax);
  }

  /** The u in [0, 1] at which the noise level is sigma. */
  u(sigma: number): number {
    return (this.formula.t(sigma) - this.first) / (this.last - this.first);
  }

  /** `n + 1` noise levels, descending, evenly spaced in u. */
  levels(n: number): number[] {
    const levels = Array.from({ length: n + 1 }, (_, i) => {
      const step = -1 / n;
      return this.at(2 * i < n + 1 ? 1 + step * i : -step * (n - i));
    });
    levels[0] = this.sigmaMax;
    levels[n] = this.sigmaMin;
    return levels;
  }

  /** `n` random noise levels, one in each of n strata, in random order. */
  sample(n: number, generator: Generator): Float64Array {
    const order = generator.permutation(n);
    const offset = generator.uniforms(n);
    return offset.map((part, i) => this.at((order[i]! + part) / n));
  }
}
