/** One run: points, law, network; and what the page asks of them. Lives in the worker. */

import { elbo } from "../engine/elbo";
import { logProb, type FlowModel } from "../engine/flow";
import { BUILT_IN, Empirical, Gaussians, type Law } from "../engine/laws";
import { openModel, saveModel, type ClassName, type Model } from "../engine/modelfile";
import type { Network } from "../engine/network";
import { RowNoise } from "../engine/random";
import { SAMPLING, SOLVERS, freshNoise, guided, levelsOf, trajectory } from "../engine/solvers";
import { logSumExp } from "../engine/special";
import { Standardizer, Training, expectedLoss, leastLoss, pointsPerStep, type Terms } from "../engine/training";
import type { Denoiser, Labels, Moments } from "../engine/types";
import type {
  Belief, FieldRequest, Inspection, Judgement, MapPart, MapRequest, SampleRequest, Samples, Settings, Source, Start,
} from "./protocol";

/** The most points that a page trains on. */
export const MOST_POINTS = 20_000;
/** The most evaluations for one picture of samples, and the most stages of it that are kept. */
const MOST_EVALUATIONS = 10_000_000, STAGES = 200;
/** Levels of the judgement, and points at each. */
const LEVELS = 24, JUDGED = 400;

/** The mixture of one Gaussian per class, with the moments of its points (`distributions.moments`). */
export function momentsOf(z: Float64Array, label: Labels, numClasses: number): Gaussians {
  const parts: Moments[] = [], counts = new Float64Array(numClasses);
  for (let c = 0; c < numClasses; c++) {
    const rows = Array.from({ length: z.length / 2 }, (_, i) => i).filter((i) => !label || label[i] === c);
    counts[c] = rows.length;
    const mean: [number, number] = [0, 0], covariance: [number, number, number] = [1e-10, 0, 1e-10];
    for (const i of rows) {
      mean[0] += z[2 * i]! / rows.length;
      mean[1] += z[2 * i + 1]! / rows.length;
    }
    for (const i of rows) {
      const dx = z[2 * i]! - mean[0], dy = z[2 * i + 1]! - mean[1];
      covariance[0] += (dx * dx) / rows.length;
      covariance[1] += (dx * dy) / rows.length;
      covariance[2] += (dy * dy) / rows.length;
    }
    parts.push({ mean, covariance });
  }
  return new Gaussians(parts, Int32Array.from(parts.keys()), counts);
}

/** The value of a map at a place in [0, 1)^2. */
function nearest({ size, values }: MapPart, x: number, y: number): number {
  return values[Math.floor(y * size) * size + Math.floor(x * size)]!;
}

export class Session {
  private readonly model: Model;
  private readonly training: Training | null;
  /** The exact law in z; null for points of unknown origin. */
  private readonly truth: Law | null;
  /** The law of the training points themselves, in z; null for an opened model, whose points are not there. */
  private readonly memory: Empirical | null;
  private readonly points: Float64Array;
  private readonly labels: Labels;
  private averagedAt = -1;

  private constructor(
    readonly settings: Settings,
    model: Model,
    data: { points: Float64Array; labels: Labels; law: Law | null },
    training: Training | null,
  ) {
    this.model = model;
    this.training = training;
    this.points = data.points;
    this.labels = data.labels;
    const { mean, scale } = model.standardizer;
    this.truth = data.law && data.law.standardized(mean, scale);
    this.memory = data.points.length ? new Empirical(model.standardizer.z(data.points), data.labels) : null;
  }

  /** A new run of these settings, before its first step. */
  static start(settings: Settings): Session {
    const { data, config, seed } = settings;
    let points: Float64Array, labels: Labels = null, law: Law | null = null, classes: ClassName[] | null = null;
    if (data.kind === "law") {
      law = BUILT_IN[data.law]!();
      const rows = law.rows(0, data.count, data.seed);
      points = rows.points;
      if (law.numClasses > 1) {
        labels = rows.labels;
        classes = Array.from({ length: law.numClasses }, (_, c) => c);
      }
    } else {
      points = Float64Array.from(data.points);
      if (data.labels) {
        const present = [...new Set(data.labels)].sort((a, b) => a - b);
        if (present.length > 1) {
          labels = Int32Array.from(data.labels, (one) => present.indexOf(one));
          classes = present.map((one) => data.names?.[one] ?? one);
        }
      }
    }
    const n = points.length / 2;
    if (n < 2) throw new Error("Draw at least two points, or choose a point set.");
    if (n > MOST_POINTS) throw new Error(`${n} points are too many for a page; at most ${MOST_POINTS} are allowed.`);
    const numClasses = classes ? classes.length : 1;
    if (labels && law && new Set(labels).size < numClasses) {
      throw new Error("Every class needs a point: raise the number of points.");
    }
    const standardizer = config.standardize ? Standardizer.fit(points) : Standardizer.identity();
    if (!(standardizer.scale[0] > 1e-12 && standardizer.scale[1] > 1e-12)) {
      throw new Error("All points lie on a horizontal or vertical line; spread them in both directions.");
    }
    const z = standardizer.z(points);
    const training = new Training(z, labels, numClasses, config, seed);
    const model: Model = {
      network: training.network,
      config,
      sampling: SAMPLING,
      standardizer,
      prior: momentsOf(z, labels, numClasses),
      columns: null,
      labelColumn: null,
      classes,
      losses: training.losses,
      heldOut: training.heldOut,
      seed,
      numPoints: n,
    };
    return new Session(settings, model, { points, labels, law }, training);
  }

  /** A model from a file. Its training is over; its points are not in the file. */
  static open(bytes: Uint8Array, settings: Settings): Session {
    const model = openModel(bytes);
    const opened: Settings = { ...settings, config: model.config, seed: model.seed, sampling: model.sampling, label: null };
    return new Session(opened, model, { points: new Float64Array(0), labels: null, law: null }, null);
  }

  get start(): Start {
    const { model, training, labels, points } = this;
    return {
      points: Float32Array.from(points),
      labels: labels ?? new Int32Array(points.length / 2),
      classes: model.classes,
      frequencies: [...model.prior.frequencies],
      exact: this.truth !== null,
      mean: model.standardizer.mean,
      scale: model.standardizer.scale,
      step: training ? training.step : model.losses.length,
      steps: training ? training.steps : model.losses.length,
      pointsPerStep: pointsPerStep(model.config, model.numPoints),
      weights: model.network.size,
      losses: [...model.losses],
      sigmaMin: model.config.sigma_min,
      sigmaMax: model.config.sigma_max,
    };
  }

  get progress(): { step: number; steps: number; done: boolean; losses: number[]; heldOut: [number, number][] } {
    const { training, model } = this, step = training ? training.step : model.losses.length;
    return {
      step,
      steps: training ? training.steps : step,
      done: training ? training.done : true,
      losses: model.losses,
      heldOut: model.heldOut,
    };
  }

  /** Train for so many milliseconds, or to the end. */
  train(milliseconds: number): void {
    const { training } = this, stop = performance.now() + milliseconds;
    while (training && !training.done && performance.now() < stop) {
      training.next();
      const every = Math.max(1, Math.floor(training.steps / 50));
      if (training.apart.length && (training.step % every === 0 || training.done)) {
        training.measureHeldOut(this.network);
      }
    }
  }

  /** One training step, term by term. */
  trainOnce(): Terms {
    if (!this.training) throw new Error("A model from a file is trained already.");
    if (this.training.done) throw new Error("Training is over: rewind to see it again.");
    let seen: Terms | null = null;
    this.training.next((terms) => (seen = terms));
    return seen!;
  }

  private averagedNetwork: Network | null = null;

  /** The network that samples and scores: that of the averaged weights. */
  private get network(): Network {
    if (!this.training) return this.model.network;
    if (this.averagedAt !== this.training.step || !this.averagedNetwork) {
      if (this.averagedNetwork) this.averagedNetwork.averageOf(this.training.network);
      else this.averagedNetwork = this.training.network.averaged();
      this.averagedAt = this.training.step;
    }
    return this.averagedNetwork;
  }

  private get numClasses(): number {
    return this.model.prior.numClasses;
  }

  private get flow(): FlowModel {
    const { sigma_min: sigmaMin, sigma_max: sigmaMax } = this.model.config;
    return { network: this.network, prior: this.model.prior, sigmaMin, sigmaMax };
  }

  private denoiser(source: Source): Denoiser {
    if (source === "exact" && this.truth) return this.truth;
    if (source === "memory" && this.memory) return this.memory;
    if (source !== "learned") throw new Error("The exact law of these points is not known.");
    return this.network;
  }

  sample({ plan, count, seed, label, source, fault }: SampleRequest): Samples {
    const { config, prior, standardizer } = this.model;
    if (count * plan.steps > MOST_EVALUATIONS) {
      throw new Error(
        `${count.toLocaleString("en")} points in ${plan.steps.toLocaleString("en")} steps take too long in a page; ` +
          `at most ${MOST_EVALUATIONS.toLocaleString("en")} evaluations are allowed.`,
      );
    }
    const levels = levelsOf(plan, config.sigma_min, config.sigma_max), top = levels[0]!;
    const chosen = label === null ? null : new Int32Array(count).fill(label);
    const start = prior.rows(0, count, seed, top, chosen);
    const labels = this.numClasses > 1 ? start.labels : null;
    let z = start.points, fresh = freshNoise(seed), denoiser = this.denoiser(source);
    if (labels) denoiser = guided(denoiser, plan.guidance);
    if (fault === "start") {
      // Noise alone, as if the data had no spread.
      const noise = new RowNoise(seed, "distribution noise").normal(0, count, 2);
      z = noise.map((e) => top * e);
    }
    if (fault === "shared-noise") {
      const one = fresh;
      fresh = (n) => {
        const [x, y] = one(1);
        return Float64Array.from({ length: 2 * n }, (_, i) => (i & 1 ? y! : x!));
      };
    }
    if (fault === "backwards") {
      const right = denoiser, ends = top * levels[levels.length - 1]!;
      // Told the level that lies as far from the other end.
      denoiser = {
        denoise: (at, sigma, own, out) =>
          right.denoise(at, typeof sigma === "number" ? ends / sigma : sigma.map((s) => ends / s), own, out),
      };
    }
    const stages: Float32Array[] = [], at: number[] = [];
    const every = Math.ceil(levels.length / STAGES);
    let step = 0;
    for (const stage of trajectory(denoiser, z, levels, SOLVERS[plan.solver]!, labels, fresh, prior, plan.churn)) {
      if (step++ % every && stage.sigma > 0) continue;
      // A wrong sampler may run to infinity. The canvas needs numbers.
      const shown = Float32Array.from(standardizer.x(stage.z));
      for (let i = 0; i < shown.length; i++) shown[i] = Math.min(Math.max(shown[i]!, -1e6), 1e6);
      stages.push(shown);
      at.push(stage.sigma);
    }
    return { levels: at, stages, labels: start.labels };
  }

  /** Yield the map, coarse to fine, and null in between. Learned maps are at sigma_min. */
  *map({ kind, sigma, label, window }: MapRequest): Generator<MapPart | null> {
    let coarse: MapPart | null = null;
    for (const size of [20, 50, 200]) {
      const values = new Float32Array(size * size), rows = Math.max(1, Math.floor(500 / size));
      // The finest map shows the coarser one where it is not there yet.
      const before: MapPart | null = coarse;
      if (before) values.forEach((_, i) => (values[i] = nearest(before, (i % size) / size, Math.floor(i / size) / size)));
      for (let first = 0, chunk = 1; first < size; first += rows, chunk++) {
        const count = Math.min(rows, size - first), x = new Float64Array(2 * count * size);
        for (let i = 0; i < count * size; i++) {
          x[2 * i] = window.left + (((i % size) + 0.5) / size) * window.size;
          x[2 * i + 1] = window.bottom + ((first + Math.floor(i / size) + 0.5) / size) * window.size;
        }
        values.set(this.mapped(kind, this.model.standardizer.z(x), sigma, label), first * size);
        yield size === 200 && chunk % 20 === 0 ? { size, values, done: false } : null;
      }
      coarse = { size, values, done: size === 200 };
      yield coarse;
    }
  }

  private mapped(kind: MapRequest["kind"], z: Float64Array, sigma: number, label: number | null): Float64Array {
    const { standardizer, config } = this.model, n = z.length / 2;
    const labels = label === null ? null : new Int32Array(n).fill(label);
    const learned = (): Float64Array => logProb(this.flow, z, labels, 0.15, false).value.map((v) => v + standardizer.logDet);
    const exact = (level: number): Float64Array => {
      if (!this.truth) throw new Error("The exact law of these points is not known.");
      return this.truth.logProb(z, level, labels).map((v) => v + standardizer.logDet);
    };
    if (kind === "learned") return learned();
    if (kind === "exact") return exact(Math.max(sigma, config.sigma_min));
    if (kind === "difference") {
      const truth = exact(config.sigma_min);
      return learned().map((v, i) => v - truth[i]!);
    }
    const { classes } = logProb(this.flow, z, null, 0.2, false), k = this.numClasses;
    if (!classes) throw new Error("These points have no classes.");
    // The most probable class, and how probable: c + p / 2.
    return Float64Array.from({ length: n }, (_, i) => {
      const own = classes.subarray(i * k, i * k + k);
      const best = own.reduce((most, p, c) => (p > own[most]! ? c : most), 0);
      return best + own[best]! / 2;
    });
  }

  /** The score at the centres of a grid: arrows `(x, y, dx, dy)`, in x, of length `sigma |score|` in units of sigma. */
  field({ source, sigma, label, window, cells }: FieldRequest): Float32Array {
    const { standardizer } = this.model, n = cells * cells, x = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      x[2 * i] = window.left + (((i % cells) + 0.5) / cells) * window.size;
      x[2 * i + 1] = window.bottom + ((Math.floor(i / cells) + 0.5) / cells) * window.size;
    }
    const z = standardizer.z(x), clean = new Float64Array(2 * n);
    const labels = label === null ? null : new Int32Array(n).fill(label);
    this.denoiser(source).denoise(z, sigma, labels, clean);
    const out = new Float32Array(4 * n);
    for (let i = 0; i < n; i++) {
      out[4 * i] = x[2 * i]!;
      out[4 * i + 1] = x[2 * i + 1]!;
      out[4 * i + 2] = ((clean[2 * i]! - z[2 * i]!) / sigma) * standardizer.scale[0];
      out[4 * i + 3] = ((clean[2 * i + 1]! - z[2 * i + 1]!) / sigma) * standardizer.scale[1];
    }
    return out;
  }

  inspect(x: [number, number], label: number | null, seed: number): Inspection {
    const { standardizer, config, prior } = this.model, { logDet } = standardizer, k = this.numClasses;
    const z = standardizer.z(Float64Array.from(x)), at: [number, number] = [z[0]!, z[1]!];
    const labels = label === null ? null : Int32Array.of(label);
    const whole = logProb(this.flow, z, null), own = labels ? logProb(this.flow, z, labels) : whole;
    const truth = this.truth?.at(at[0], at[1], config.sigma_min, label ?? -1).logProb;
    const exactClasses = k > 1 && this.truth ? [...this.truth.at(at[0], at[1], config.sigma_min).classes] : null;
    // The bound needs a class: that of the point in a mixture is one more hidden variable.
    const bounds = (power: 1 | 2) =>
      (k > 1 ? (label === null ? [...prior.frequencies.keys()] : [label]) : [null]).map((c) =>
        elbo(this.network, prior, at, c, config.sigma_min, config.sigma_max, seed, power),
      );
    const all = bounds(2);
    const joint = all.map((b, c) => b.value + (label === null && k > 1 ? Math.log(prior.frequencies[c]!) : 0));
    const best = all[joint.indexOf(Math.max(...joint))]!, value = logSumExp(joint);
    return {
      x,
      learned: own.value[0]! + logDet,
      error: own.error[0]!,
      exact: truth === undefined ? null : truth + logDet,
      // Of a mixture the terms of the likeliest class are shown; what the others add goes with the prior.
      elbo: {
        ...best,
        value: value + logDet,
        reconstruction: best.reconstruction + logDet,
        prior: best.prior + value - best.value,
      },
      wrongElbo: bounds(1)[0]!.value + logDet,
      classes: whole.classes && [...whole.classes],
      exactClasses,
      evaluations: own.evaluations,
      path: this.path(z, label),
    };
  }

  /** From a point in z up to the highest level, by Heun's method in log sigma: for the eye, not for a number. */
  private path(z: Float64Array, label: number | null): Float32Array {
    const { config, standardizer } = this.model, steps = 60;
    const labels = label === null ? null : Int32Array.of(label), clean = new Float64Array(2);
    const out = new Float32Array(2 * (steps + 1)), slope = (at: Float64Array, sigma: number): Float64Array => {
      this.network.denoise(at, sigma, labels, clean);
      return at.map((v, k) => v - clean[k]!);
    };
    const h = Math.log(config.sigma_max / config.sigma_min) / steps;
    let at = z;
    for (let i = 0; i <= steps; i++) {
      out.set(standardizer.x(at), 2 * i);
      const sigma = config.sigma_min * Math.exp(i * h), first = slope(at, sigma);
      const second = slope(at.map((v, k) => v + h * first[k]!), sigma * Math.exp(h));
      at = at.map((v, k) => v + (h / 2) * (first[k]! + second[k]!));
    }
    return out;
  }

  /** The denoised mean of a noisy point, and 200 clean points of its posterior. */
  believe(x: [number, number], sigma: number, label: number | null): Belief {
    const { standardizer } = this.model, z = standardizer.z(Float64Array.from(x)), out = new Float64Array(2);
    const labels = label === null ? null : Int32Array.of(label);
    const mean = (denoiser: Denoiser): [number, number] => {
      denoiser.denoise(z, sigma, labels, out);
      const back = standardizer.x(out);
      return [back[0]!, back[1]!];
    };
    const learned = mean(this.network), exact = this.truth && mean(this.truth);
    // Clean points of the law, each as often as its noise would lead here.
    const many = this.truth ? this.truth.rows(0, 5000, 1, 0, label === null ? null : new Int32Array(5000).fill(label)) : null;
    const from = many ? many.points : standardizer.z(this.points);
    const logs = new Float64Array(from.length / 2);
    for (let i = 0; i < logs.length; i++) {
      const far = (from[2 * i]! - z[0]!) ** 2 + (from[2 * i + 1]! - z[1]!) ** 2;
      const own = many || label === null || this.labels?.[i] === label;
      logs[i] = own ? -far / (2 * sigma * sigma) : -Infinity;
    }
    const total = logSumExp(logs), cloud: number[] = [];
    if (Number.isFinite(total)) {
      // Systematic resampling: 200 even marks over the cumulative weights.
      let sum = 0, mark = 0;
      for (let i = 0; i < logs.length; i++) {
        sum += Math.exp(logs[i]! - total) * 200;
        for (; mark + 0.5 < sum; mark++) cloud.push(from[2 * i]!, from[2 * i + 1]!);
      }
    }
    return { learned, exact, cloud: Float32Array.from(standardizer.x(Float64Array.from(cloud))) };
  }

  private held: { least: number; train: number; fresh: number; points: Float64Array; labels: Labels } | null = null;

  /** The least possible loss; and the loss of the exact denoiser at the training points and at fresh ones. */
  private get leastLosses(): Session["held"] {
    const { truth, model: { config, standardizer }, numClasses } = this;
    if (!truth || !this.points.length) return null;
    if (!this.held) {
      const few = truth.rows(0, 1000, 77);
      const own = (labels: Int32Array): Labels => (numClasses > 1 ? labels : null);
      this.held = {
        least: leastLoss(truth, config),
        train: expectedLoss(truth, config, standardizer.z(this.points), this.labels),
        fresh: expectedLoss(truth, config, few.points, own(few.labels)),
        points: few.points,
        labels: own(few.labels),
      };
    }
    return this.held;
  }

  judge(): Judgement {
    const { config, standardizer } = this.model, { truth, network, numClasses } = this, k = numClasses;
    const low = Math.log(config.sigma_min), width = Math.log(config.sigma_max / config.sigma_min) / LEVELS;
    const sigma: number[] = [], kl: number[] = [], predicted: number[] = [], ideal: number[] = [];
    const z = standardizer.z(this.points), n = z.length / 2;
    for (let b = 0; b < LEVELS; b++) {
      const level = Math.exp(low + (b + 0.5) * width);
      sigma.push(level);
      let noisy: Float64Array, labels: Labels;
      if (truth) {
        const rows = truth.rows(0, JUDGED, 1000 + b, level);
        noisy = rows.points;
        labels = k > 1 ? rows.labels : null;
      } else {
        const eps = new RowNoise(b, "judge").normal(0, JUDGED, 2);
        noisy = eps.map((e, i) => (n ? z[(2 * (i >> 1) + (i & 1)) % (2 * n)]! : 0) + level * e);
        labels = this.labels && Int32Array.from({ length: JUDGED }, (_, i) => this.labels![i % n]!);
        if (k > 1 && !labels) labels = new Int32Array(JUDGED);
      }
      const ours = new Float64Array(2 * JUDGED), best = new Float64Array(2 * JUDGED);
      network.denoise(noisy, level, labels, ours);
      const size = (clean: Float64Array): number =>
        Math.sqrt(clean.reduce((sum, v, i) => sum + ((noisy[i]! - v) / level) ** 2, 0) / (2 * JUDGED));
      predicted.push(size(ours));
      if (!truth) continue;
      truth.denoise(noisy, level, labels, best);
      ideal.push(size(best));
      let sum = 0;
      for (let i = 0; i < JUDGED; i++) {
        sum += (ours[2 * i]! - best[2 * i]!) ** 2 + (ours[2 * i + 1]! - best[2 * i + 1]!) ** 2;
      }
      // 1/2 E|D - D'|^2 d(1 / sigma^2), per unit of log sigma.
      kl.push(sum / JUDGED / level ** 2);
    }
    let fresh = NaN, train = NaN;
    const least = this.leastLosses;
    if (least) {
      // The excess over the exact denoiser, with the same noise, varies far less than the loss itself.
      train = least.least + expectedLoss(network, config, z, this.labels) - least.train;
      fresh = least.least + expectedLoss(network, config, least.points, least.labels) - least.fresh;
    } else if (n) {
      for (let seed = 0; seed < 8; seed++) train = (seed ? train : 0) + expectedLoss(network, config, z, this.labels, seed) / 8;
      const { heldOut } = this.model;
      if (heldOut.length) fresh = heldOut[heldOut.length - 1]![1];
    }
    return {
      sigma,
      kl: truth && kl,
      total: truth && kl.reduce((a, b) => a + b, 0) * width,
      leastLoss: least && least.least,
      fresh,
      train,
      predicted,
      ideal: truth && ideal,
    };
  }

  /** The bytes of a model file for `toydiffusion.load`. */
  save(): Uint8Array {
    return saveModel({ ...this.model, network: this.network, sampling: this.settings.sampling }, __VERSION__);
  }
}
