/** Training, step by step, as in `toydiffusion.training`: the same seed gives the same run as in Python. */

import type { Law } from "./laws";
import { Network, PRECONDITIONINGS, type Architecture } from "./network";
import { RowNoise } from "./random";
import { Schedule } from "./schedules";
import type { Denoiser, Labels } from "./types";

/** The settings of a model and its training: the fields of `toydiffusion.TrainConfig`, and their defaults. */
export const DEFAULTS = {
  standardize: true,
  sigma_min: 0.01,
  sigma_max: 20,
  schedule: "flow-matching",
  preconditioning: "edm",
  width: 64,
  hidden_layers: 2,
  edges: 32,
  waves: 0,
  steps: null as number | null,
  batch_size: null as number | null,
  learning_rate: 0.01,
  averaging: 0.3,
  label_dropout: 0.1,
  held_out: 0,
  device: "auto",
};
export type TrainConfig = typeof DEFAULTS;

/** Half to even, as Python rounds. */
function round(x: number): number {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}

export function totalSteps(config: TrainConfig, points: number, classes: number): number {
  const least = classes > 1 ? 1000 * Math.min(classes, 10) : 500;
  return config.steps ?? Math.max(least, Math.min(round(1.5 * points), 6000));
}

export function pointsPerStep(config: TrainConfig, points: number): number {
  return config.batch_size ?? round(Math.min(Math.max(50 * Math.cbrt(points), 250), 2000));
}

export function architecture(config: TrainConfig, numClasses: number): Architecture {
  const { width, hidden_layers: hiddenLayers, edges, waves, preconditioning } = config;
  return { numClasses, width, hiddenLayers, edges, waves, preconditioning };
}

/** Columns shifted and scaled to mean 0 and standard deviation 1. */
export class Standardizer {
  constructor(
    readonly mean: [number, number],
    readonly scale: [number, number],
  ) {}

  static fit(x: Float64Array): Standardizer {
    const n = x.length / 2, mean: [number, number] = [0, 0], scale: [number, number] = [0, 0];
    x.forEach((v, i) => (mean[i & 1 ? 1 : 0] += v / n));
    x.forEach((v, i) => (scale[i & 1 ? 1 : 0] += (v - mean[i & 1]!) ** 2 / n));
    return new Standardizer(mean, [Math.sqrt(scale[0]), Math.sqrt(scale[1])]);
  }

  static identity(): Standardizer {
    return new Standardizer([0, 0], [1, 1]);
  }

  /** `log p(x) = log p(z) + logDet`. */
  get logDet(): number {
    return -Math.log(this.scale[0]) - Math.log(this.scale[1]);
  }

  z(x: Float64Array): Float64Array {
    return x.map((v, i) => (v - this.mean[i & 1]!) / this.scale[i & 1]!);
  }

  x(z: Float64Array): Float64Array {
    const out = new Float64Array(z.length), [mx, my] = this.mean, [sx, sy] = this.scale;
    for (let i = 0; i < z.length; i += 2) {
      out[i] = mx + sx * z[i]!;
      out[i + 1] = my + sy * z[i + 1]!;
    }
    return out;
  }
}

/** The rows of each step, cut from one endless sequence of shuffled epochs. */
class Deck {
  private cards: Int32Array = new Int32Array(0);
  private epoch = 0;

  constructor(
    private readonly rows: Int32Array,
    private readonly size: number,
    private readonly seed: number,
  ) {}

  next(): Int32Array {
    const { rows, size } = this;
    while (this.cards.length < size) {
      const order = new RowNoise(this.seed, "epoch").generator(this.epoch++).permutation(rows.length);
      const longer = new Int32Array(this.cards.length + rows.length);
      longer.set(this.cards);
      longer.set(order.map((i) => rows[i]!), this.cards.length);
      this.cards = longer;
    }
    const taken = this.cards.slice(0, size);
    this.cards = this.cards.subarray(size);
    return taken;
  }
}

/** One training step, term by term, for a person to read. */
export interface Terms {
  step: number;
  /** The first point of the batch: clean, noise, level, noisy, what F should say and what it says. */
  clean: [number, number];
  eps: [number, number];
  sigma: number;
  noisy: [number, number];
  target: [number, number];
  raw: [number, number];
  denoised: [number, number];
  weight: number;
  loss: number;
  rate: number;
  gradientNorm: number;
}

/** A run of training: `step()` until `done`. */
export class Training {
  readonly network: Network;
  readonly steps: number;
  readonly size: number;
  readonly noise: Schedule;
  readonly apart: Int32Array;
  readonly losses: number[] = [];
  readonly heldOut: [number, number][] = [];
  step = 0;
  private readonly deck: Deck;

  constructor(
    readonly z: Float64Array,
    readonly label: Labels,
    readonly numClasses: number,
    readonly config: TrainConfig,
    readonly seed: number,
  ) {
    const n = z.length / 2;
    this.network = new Network(
      architecture(config, numClasses),
      new RowNoise(seed, "network").generator(),
    );
    this.steps = totalSteps(config, n, numClasses);
    this.size = pointsPerStep(config, n);
    this.noise = new Schedule(config.schedule, config.sigma_min, config.sigma_max);
    const order = new RowNoise(seed, "held out").generator().permutation(n);
    this.apart = order.slice(0, round(config.held_out * n));
    this.deck = new Deck(order.slice(this.apart.length).sort(), this.size, seed);
  }

  get done(): boolean {
    return this.step >= this.steps;
  }

  /** Take one step, and return its loss. With `terms` the first point of the batch is followed closely. */
  next(terms?: (terms: Terms) => void): number {
    const { config, size, step, z, label, numClasses } = this;
    const generator = new RowNoise(this.seed, "training").generator(step);
    const rows = this.deck.next();
    const sigma = new Float32Array(this.noise.sample(size, generator));
    const eps = new Float32Array(generator.normalFloats(2 * size));
    const points = new Float32Array(2 * size);
    let chosen: Labels = null;
    if (label) {
      chosen = new Int32Array(size);
      for (let i = 0; i < size; i++) {
        chosen[i] = generator.uniformFloat() < config.label_dropout ? numClasses : label[rows[i]!]!;
      }
    }
    for (let i = 0; i < size; i++) {
      points[2 * i] = z[2 * rows[i]!]!;
      points[2 * i + 1] = z[2 * rows[i]! + 1]!;
    }
    const before = terms ? this.look(points, sigma, eps, chosen) : null;
    const loss = this.network.lossAndGradient(points, sigma, eps, chosen);
    const rate = config.learning_rate * (1 - step / this.steps) * Math.min(1, (step + 1) / 20);
    if (!Number.isFinite(loss)) {
      throw new Error(
        `the loss is ${loss} at step ${step + 1} of ${this.steps}, learning rate ${rate.toPrecision(3)}; ` +
          "try a lower learning rate",
      );
    }
    if (terms && before) {
      terms({ ...before, step: step + 1, loss, rate, gradientNorm: this.network.gradientNorm() });
    }
    this.network.adam(step, rate, config.averaging);
    this.losses.push(loss);
    this.step++;
    return loss;
  }

  private look(
    points: Float32Array, sigma: Float32Array, eps: Float32Array, label: Labels,
  ): Omit<Terms, "step" | "loss" | "rate" | "gradientNorm"> {
    const s = sigma[0]!, scheme = PRECONDITIONINGS[this.config.preconditioning]!;
    const skip = scheme.skip(s), gain = scheme.out(s);
    const clean: [number, number] = [points[0]!, points[1]!], noise: [number, number] = [eps[0]!, eps[1]!];
    const noisy = clean.map((v, k) => v + s * noise[k]!) as [number, number];
    const out = new Float64Array(2);
    this.network.denoise(Float64Array.from(noisy), s, label && label.slice(0, 1), out);
    const raw = [...out].map((v, k) => (v - skip * noisy[k]!) / gain) as [number, number];
    const target = clean.map((v, k) => (v - skip * noisy[k]!) / gain) as [number, number];
    const denoised: [number, number] = [out[0]!, out[1]!];
    return { clean, eps: noise, sigma: s, noisy, target, raw, denoised, weight: gain ** -2 };
  }

  /** The loss of the averaged weights at the points kept apart, always with the same noise. */
  measureHeldOut(network: Network): number {
    const rows = this.apart, n = rows.length;
    const z = new Float64Array(2 * n), label = this.label ? new Int32Array(n) : null;
    rows.forEach((row, i) => {
      z[2 * i] = this.z[2 * row]!;
      z[2 * i + 1] = this.z[2 * row + 1]!;
      if (label) label[i] = this.label![row]!;
    });
    const loss = expectedLoss(network, this.config, z, label);
    this.heldOut.push([this.step, loss]);
    return loss;
  }
}

/**
 * The loss that training minimises, for any denoiser at points z (n, 2).
 *
 * For the exact denoiser and fresh points of its law this is the least possible loss of any model.
 */
export function expectedLoss(
  denoiser: Denoiser, config: TrainConfig, z: Float64Array, label: Labels, seed = 0,
): number {
  const n = z.length / 2, generator = new RowNoise(seed, "expected loss").generator();
  const noise = new Schedule(config.schedule, config.sigma_min, config.sigma_max);
  const sigma = noise.sample(n, generator), eps = generator.normals(2 * n);
  const noisy = z.map((v, i) => v + sigma[i >> 1]! * eps[i]!), clean = new Float64Array(2 * n);
  denoiser.denoise(noisy, sigma, label, clean);
  const scheme = PRECONDITIONINGS[config.preconditioning]!;
  let sum = 0;
  clean.forEach((v, i) => (sum += ((v - z[i]!) / scheme.out(sigma[i >> 1]!)) ** 2));
  return sum / (2 * n);
}

/**
 * The least possible loss: that of the exact denoiser, for a law of standardised points.
 *
 * A control variate removes most of the noise: the best linear denoiser `z_noisy / (1 + sigma^2)`, whose mean
 * squared error `((sigma^2)^2 E z^2 + sigma^2) / (1 + sigma^2)^2` per coordinate is known.
 */
export function leastLoss(law: Law, config: TrainConfig, points = 10_000): number {
  const { points: z, labels } = law.rows(0, points, 78), n = points;
  const generator = new RowNoise(0, "expected loss").generator();
  const sigma = new Schedule(config.schedule, config.sigma_min, config.sigma_max).sample(n, generator);
  const eps = generator.normals(2 * n), noisy = z.map((v, i) => v + sigma[i >> 1]! * eps[i]!);
  const clean = new Float64Array(2 * n), scheme = PRECONDITIONINGS[config.preconditioning]!;
  law.denoise(noisy, sigma, law.numClasses > 1 ? labels : null, clean);
  const { mean, covariance } = law.moments, square = [mean[0] ** 2 + covariance[0], mean[1] ** 2 + covariance[2]];
  let sum = 0;
  for (let i = 0; i < 2 * n; i++) {
    const s = sigma[i >> 1]!, shrink = 1 / (1 + s * s);
    const known = (s ** 4 * square[i & 1]! + s * s) * shrink * shrink;
    const ours = (clean[i]! - z[i]!) ** 2, linear = (shrink * noisy[i]! - z[i]!) ** 2;
    sum += (ours - linear + known) / scheme.out(s) ** 2;
  }
  return sum / (2 * n);
}
