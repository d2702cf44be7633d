/** Point sets whose density, score and denoiser are known exactly at every noise level. */

import { answer, interval } from "./interval";
import { RowNoise } from "./random";
import { legendre } from "./special";
import type { Denoiser, Labels, Levels, Moments } from "./types";

/** What a law knows of one point: filled by `Law.at`. */
export interface Posterior {
  logProb: number;
  clean: [number, number];
  /** The probability of each class. */
  classes: Float64Array;
}

/**
 * The exact law of `x + sigma eps`, a mixture of components: the twin of `distributions.Distribution`.
 *
 * Component j has weight `w_j`, label `l_j`, noised log-density `log f_j` and posterior mean `E_j[clean | x]`.
 */
export abstract class Law implements Denoiser {
  readonly numClasses: number;
  readonly frequencies: Float64Array;
  readonly classMoments: Moments[];
  readonly moments: Moments;
  protected readonly logF: Float64Array;
  protected readonly cleanX: Float64Array;
  protected readonly cleanY: Float64Array;
  private readonly logWeight: Float64Array;
  private readonly order: Int32Array;
  private readonly cumulative: Float64Array;
  private readonly ends: Int32Array;
  private readonly found: Posterior;

  constructor(
    readonly weight: Float64Array,
    readonly label: Int32Array,
    center: (j: number) => [number, number],
    spread: (j: number) => [number, number, number],
  ) {
    const m = weight.length, total = weight.reduce((a, b) => a + b, 0);
    this.weight = weight.map((w) => w / total);
    this.logWeight = this.weight.map(Math.log);
    this.numClasses = label.reduce((a, b) => Math.max(a, b), 0) + 1;
    this.frequencies = new Float64Array(this.numClasses);
    this.weight.forEach((w, j) => (this.frequencies[label[j]!]! += w));
    this.logF = new Float64Array(m);
    this.cleanX = new Float64Array(m);
    this.cleanY = new Float64Array(m);
    this.order = Int32Array.from({ length: m }, (_, j) => j).sort((a, b) => label[a]! - label[b]! || a - b);
    let sum = 0;
    this.cumulative = Float64Array.from(this.order, (j) => (sum += this.weight[j]!));
    this.ends = new Int32Array(this.numClasses + 1);
    label.forEach((c) => this.ends[c + 1]!++);
    for (let c = 0; c < this.numClasses; c++) this.ends[c + 1]! += this.ends[c]!;
    this.classMoments = Array.from({ length: this.numClasses }, (_, c) =>
      pooled(
        [...label.keys()].filter((j) => label[j] === c).map((j) => ({
          share: this.weight[j]! / this.frequencies[c]!,
          mean: center(j),
          covariance: spread(j),
        })),
      ),
    );
    this.moments = pooled(this.classMoments.map((one, c) => ({ share: this.frequencies[c]!, ...one })));
    this.found = { logProb: 0, clean: [0, 0], classes: new Float64Array(this.numClasses) };
  }

  /** Put `log f_j` and `E_j[clean | x]` of this point into `logF`, `cleanX` and `cleanY`. */
  protected abstract components(x: number, y: number, sigma: number): void;

  /** A clean point of component j, from uniform and normal numbers. */
  protected abstract clean(j: number, uniform: ArrayLike<number>, normal: ArrayLike<number>): [number, number];

  /** The exact law of `(x - mean) / scale`. */
  abstract standardized(mean: readonly number[], scale: readonly number[]): Law;

  /** Log-density, posterior mean and classes at a point; the next call overwrites them. Class -1: all. */
  at(x: number, y: number, sigma: number, label = -1): Posterior {
    const { logF, logWeight, found } = this;
    this.components(x, y, sigma);
    const own = label < 0 ? 0 : Math.log(this.frequencies[label]!);
    let most = -Infinity;
    for (let j = 0; j < logF.length; j++) {
      const joint = label < 0 || this.label[j] === label ? logF[j]! + logWeight[j]! - own : -Infinity;
      logF[j] = joint;
      if (joint > most) most = joint;
    }
    found.classes.fill(0);
    if (most === -Infinity) {
      found.logProb = most;
      found.clean[0] = found.clean[1] = NaN;
      return found;
    }
    let sum = 0, cx = 0, cy = 0;
    for (let j = 0; j < logF.length; j++) {
      const gap = logF[j]! - most;
      if (gap < -745) continue;
      const r = Math.exp(gap);
      sum += r;
      cx += r * this.cleanX[j]!;
      cy += r * this.cleanY[j]!;
      found.classes[this.label[j]!]! += r;
    }
    for (let c = 0; c < this.numClasses; c++) found.classes[c]! /= sum;
    found.logProb = most + Math.log(sum);
    found.clean[0] = cx / sum;
    found.clean[1] = cy / sum;
    return found;
  }

  denoise(z: Float64Array, sigma: Levels, label: Labels, out: Float64Array): void {
    for (let i = 0; 2 * i < z.length; i++) {
      const level = typeof sigma === "number" ? sigma : sigma[i]!;
      const { clean } = this.at(z[2 * i]!, z[2 * i + 1]!, level, label ? label[i]! : -1);
      out[2 * i] = clean[0];
      out[2 * i + 1] = clean[1];
    }
  }

  /** Log-densities of points (n, 2). */
  logProb(z: Float64Array, sigma: Levels, label: Labels): Float64Array {
    return Float64Array.from({ length: z.length / 2 }, (_, i) => {
      const level = typeof sigma === "number" ? sigma : sigma[i]!;
      return this.at(z[2 * i]!, z[2 * i + 1]!, level, label ? label[i]! : -1).logProb;
    });
  }

  /** Rows `start..stop` of the endless sample of this seed, noised to sigma: those that Python draws. */
  rows(start: number, stop: number, seed: number, sigma = 0, label: Labels = null): Sample {
    const n = stop - start;
    const labels = new Int32Array(n), points = new Float64Array(2 * n);
    if (label) labels.set(label);
    else {
      const choice = new RowNoise(seed, "distribution class").uniform(start, stop, 1);
      let sum = 0;
      const ends = this.frequencies.map((f) => (sum += f));
      choice.forEach((u, i) => {
        let c = 0;
        while (c < this.numClasses - 1 && u >= ends[c]!) c++;
        labels[i] = c;
      });
    }
    const uniform = new RowNoise(seed, "distribution place").uniform(start, stop, 3);
    const normal = new RowNoise(seed, "distribution spread").normal(start, stop, 2);
    const noise = sigma > 0 ? new RowNoise(seed, "distribution noise").normal(start, stop, 2) : null;
    for (let i = 0; i < n; i++) {
      const u = uniform.subarray(3 * i, 3 * i + 3);
      const [x, y] = this.clean(this.pick(labels[i]!, u[0]!), u, normal.subarray(2 * i, 2 * i + 2));
      points[2 * i] = x + (noise ? sigma * noise[2 * i]! : 0);
      points[2 * i + 1] = y + (noise ? sigma * noise[2 * i + 1]! : 0);
    }
    return { points, labels };
  }

  private pick(c: number, uniform: number): number {
    const first = this.ends[c]!, last = this.ends[c + 1]! - 1;
    const aim = (first > 0 ? this.cumulative[first - 1]! : 0) + uniform * this.frequencies[c]!;
    let low = 0, high = this.cumulative.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.cumulative[middle]! > aim) high = middle;
      else low = middle + 1;
    }
    return this.order[Math.min(Math.max(low, first), last)]!;
  }
}

/** Points (n, 2) and their class indices. */
export interface Sample {
  points: Float64Array;
  labels: Int32Array;
}

function pooled(parts: (Moments & { share: number })[]): Moments {
  const mean: [number, number] = [0, 0];
  for (const { share, mean: m } of parts) {
    mean[0] += share * m[0];
    mean[1] += share * m[1];
  }
  const covariance: [number, number, number] = [0, 0, 0];
  for (const { share, mean: m, covariance: c } of parts) {
    const dx = m[0] - mean[0], dy = m[1] - mean[1];
    covariance[0] += share * (c[0] + dx * dx);
    covariance[1] += share * (c[1] + dx * dy);
    covariance[2] += share * (c[2] + dy * dy);
  }
  return { mean, covariance };
}

type Box = [lowX: number, lowY: number, highX: number, highY: number];

/** Uniform boxes, each a product of two intervals. Equal intervals are computed once. */
class Boxes extends Law {
  private readonly sides: { axis: number; low: number; high: number }[] = [];
  private readonly sideX: number[] = [];
  private readonly sideY: number[] = [];
  private readonly logSide: Float64Array;
  private readonly meanSide: Float64Array;

  constructor(
    private readonly boxes: Box[],
    label?: Int32Array,
    weight?: Float64Array,
  ) {
    super(
      weight ?? Float64Array.from(boxes, (b) => (b[2] - b[0]) * (b[3] - b[1])),
      label ?? new Int32Array(boxes.length),
      (j) => [(boxes[j]![0] + boxes[j]![2]) / 2, (boxes[j]![1] + boxes[j]![3]) / 2],
      (j) => [(boxes[j]![2] - boxes[j]![0]) ** 2 / 12, 0, (boxes[j]![3] - boxes[j]![1]) ** 2 / 12],
    );
    const place = (axis: number, low: number, high: number): number => {
      const at = this.sides.findIndex((s) => s.axis === axis && s.low === low && s.high === high);
      return at >= 0 ? at : this.sides.push({ axis, low, high }) - 1;
    };
    for (const b of boxes) {
      this.sideX.push(place(0, b[0], b[2]));
      this.sideY.push(place(1, b[1], b[3]));
    }
    this.logSide = new Float64Array(this.sides.length);
    this.meanSide = new Float64Array(this.sides.length);
  }

  protected components(x: number, y: number, sigma: number): void {
    for (let s = 0; s < this.sides.length; s++) {
      const { axis, low, high } = this.sides[s]!;
      interval(axis ? y : x, sigma, low, high);
      this.logSide[s] = answer.logDensity;
      this.meanSide[s] = answer.mean;
    }
    for (let j = 0; j < this.logF.length; j++) {
      const sx = this.sideX[j]!, sy = this.sideY[j]!;
      this.logF[j] = this.logSide[sx]! + this.logSide[sy]!;
      this.cleanX[j] = this.meanSide[sx]!;
      this.cleanY[j] = this.meanSide[sy]!;
    }
  }

  protected clean(j: number, u: ArrayLike<number>): [number, number] {
    const [lowX, lowY, highX, highY] = this.boxes[j]!;
    const mix = (low: number, high: number, t: number): number =>
      t < 0.5 ? low + t * (high - low) : high - (high - low) * (1 - t);
    return [mix(lowX, highX, u[1]!), mix(lowY, highY, u[2]!)];
  }

  standardized(mean: readonly number[], scale: readonly number[]): Law {
    const boxes = this.boxes.map(
      (b): Box => [
        (b[0] - mean[0]!) / scale[0]!,
        (b[1] - mean[1]!) / scale[1]!,
        (b[2] - mean[0]!) / scale[0]!,
        (b[3] - mean[1]!) / scale[1]!,
      ],
    );
    return new Boxes(boxes, this.label, this.weight);
  }
}

/** A mixture of Gaussians with full covariances. */
export class Gaussians extends Law {
  constructor(
    readonly parts: Moments[],
    label: Int32Array,
    weight: Float64Array,
  ) {
    super(weight, label, (j) => parts[j]!.mean, (j) => parts[j]!.covariance);
  }

  protected components(x: number, y: number, sigma: number): void {
    for (let j = 0; j < this.parts.length; j++) {
      const { mean, covariance: c } = this.parts[j]!;
      const a = c[0] + sigma * sigma, b = c[1], d = c[2] + sigma * sigma;
      const det = a * d - b * b, dx = x - mean[0], dy = y - mean[1];
      // (C + sigma^2)^-1 (x - mean)
      const hx = (d * dx - b * dy) / det, hy = (a * dy - b * dx) / det;
      this.logF[j] = -(dx * hx + dy * hy) / 2 - Math.log(det) / 2 - Math.log(2 * Math.PI);
      this.cleanX[j] = mean[0] + c[0] * hx + b * hy;
      this.cleanY[j] = mean[1] + b * hx + c[2] * hy;
    }
  }

  protected clean(j: number, _: ArrayLike<number>, normal: ArrayLike<number>): [number, number] {
    const { mean, covariance: c } = this.parts[j]!;
    const l = Math.sqrt(c[0]), k = c[1] / l;
    return [mean[0] + l * normal[0]!, mean[1] + k * normal[0]! + Math.sqrt(c[2] - k * k) * normal[1]!];
  }

  standardized(mean: readonly number[], scale: readonly number[]): Gaussians {
    const parts = this.parts.map(
      ({ mean: m, covariance: c }): Moments => ({
        mean: [(m[0] - mean[0]!) / scale[0]!, (m[1] - mean[1]!) / scale[1]!],
        covariance: [
          c[0] / scale[0]! ** 2,
          c[1] / scale[0]! / scale[1]!,
          c[2] / scale[1]! ** 2,
        ],
      }),
    );
    return new Gaussians(parts, this.label, this.weight);
  }
}

/** Weighted points, each with a normal kernel of a thickness per axis: curves and finite sets. */
abstract class Kernels extends Law {
  constructor(
    protected readonly points: Float64Array,
    protected readonly thickness: readonly [number, number],
    weight: Float64Array,
    label: Int32Array,
  ) {
    super(
      weight,
      label,
      (j) => [points[2 * j]!, points[2 * j + 1]!],
      () => [thickness[0] ** 2, 0, thickness[1] ** 2],
    );
  }

  protected components(x: number, y: number, sigma: number): void {
    const { points, logF, cleanX, cleanY } = this;
    const tx = this.thickness[0] ** 2, ty = this.thickness[1] ** 2;
    const vx = tx + sigma * sigma, vy = ty + sigma * sigma;
    const norm = -Math.log(4 * Math.PI * Math.PI * vx * vy) / 2;
    const hx = 0.5 / vx, hy = 0.5 / vy, gx = tx / vx, gy = ty / vy;
    for (let j = 0; j < logF.length; j++) {
      const px = points[2 * j]!, py = points[2 * j + 1]!, dx = x - px, dy = y - py;
      logF[j] = norm - dx * dx * hx - dy * dy * hy;
      cleanX[j] = px + gx * dx;
      cleanY[j] = py + gy * dy;
    }
  }
}

/** A finite set of equally likely points: its denoiser is that of a model that memorises its training set. */
export class Empirical extends Kernels {
  constructor(points: Float64Array, labels: Int32Array | null = null) {
    const m = points.length / 2;
    super(points, [0, 0], new Float64Array(m).fill(1), labels ?? new Int32Array(m));
  }

  protected clean(j: number): [number, number] {
    return [this.points[2 * j]!, this.points[2 * j + 1]!];
  }

  standardized(mean: readonly number[], scale: readonly number[]): Empirical {
    return new Empirical(this.points.map((v, i) => (v - mean[i & 1]!) / scale[i & 1]!), this.label);
  }
}

type Arc = (t: number) => [number, number];

/** The nodes of the quadrature over each arc, as in `distributions.curves`. */
function quadrature(arcs: Arc[], noise: number): { points: number[]; weights: number[]; labels: number[] } {
  const gauss = legendre(16);
  const points: number[] = [], weights: number[] = [], labels: number[] = [];
  arcs.forEach((arc, c) => {
    let speed = 0;
    for (let i = 0; i < 1024; i++) {
      const [a, b] = [arc(i / 1024), arc((i + 1) / 1024)];
      speed = Math.max(speed, Math.hypot(b[0] - a[0], b[1] - a[1]) * 1024);
    }
    const panels = Math.max(10, Math.ceil(speed / (3 * noise)));
    const cuts = Array.from({ length: panels + 1 }, (_, i) => i);
    cuts.push(1 / 8, 3 / 8, panels - 1 / 8, panels - 3 / 8);
    cuts.sort((a, b) => a - b);
    for (let i = 0; i + 1 < cuts.length; i++) {
      const start = cuts[i]! / panels, width = cuts[i + 1]! / panels - start;
      gauss.nodes.forEach((node, k) => {
        points.push(...arc(start + (width * (1 + node)) / 2));
        weights.push(width * gauss.weights[k]!);
        labels.push(c);
      });
    }
  });
  return { points, weights, labels };
}

/** Thick curves: class c is `(arc_c(t) + noise eps - mean) / scale`, with t uniform on [0, 1]. */
class Arcs extends Kernels {
  constructor(
    private readonly arcs: Arc[],
    private readonly noise: number,
    private readonly mean: readonly number[] = [0, 0],
    private readonly scale: readonly number[] = [1, 1],
  ) {
    const { points, weights, labels } = quadrature(arcs, noise);
    super(
      Float64Array.from(points, (v, i) => (v - mean[i & 1]!) / scale[i & 1]!),
      [noise / scale[0]!, noise / scale[1]!],
      Float64Array.from(weights),
      Int32Array.from(labels),
    );
  }

  protected clean(j: number, u: ArrayLike<number>, normal: ArrayLike<number>): [number, number] {
    const [x, y] = this.arcs[this.label[j]!]!(u[0]!);
    return [
      (x + this.noise * normal[0]! - this.mean[0]!) / this.scale[0]!,
      (y + this.noise * normal[1]! - this.mean[1]!) / this.scale[1]!,
    ];
  }

  standardized(mean: readonly number[], scale: readonly number[]): Law {
    return new Arcs(
      this.arcs,
      this.noise,
      this.mean.map((m, i) => m + mean[i]! * this.scale[i]!),
      this.scale.map((s, i) => s * scale[i]!),
    );
  }
}

function circle(x: number, y: number, radius: number, first: number, last: number): Arc {
  return (t) => {
    const angle = first + (last - first) * t;
    return [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
  };
}

function arm(rotation: number): Arc {
  const first = Math.PI / 2, last = Math.PI * 3;
  return (t) => {
    const angle = Math.sqrt(first ** 2 + (last ** 2 - first ** 2) * t);
    return [(Math.cos(angle + rotation) * angle) / last, (Math.sin(angle + rotation) * angle) / last];
  };
}

function concentricSquares(): Law {
  const radius = [0, 1, 2, 3, 4, 5].map((c) => c / 5);
  const below = radius.map((r) => r * (1 - 2 ** -53));
  const boxes: Box[] = [[-below[1]!, -below[1]!, below[1]!, below[1]!]], label = [0];
  for (let c = 1; c < 5; c++) {
    const r = radius[c]!, near = below[c]!, far = below[c + 1]!;
    boxes.push([r, -far, far, far], [-far, -far, -r, far], [-near, r, near, far], [-near, -far, near, -r]);
    label.push(c, c, c, c);
  }
  return new Boxes(boxes, Int32Array.from(label));
}

function checkerboard(): Law {
  const line = [-1, -0.5, 0, 0.5, 1], boxes: Box[] = [];
  for (let i = 0; i < 4; i++) {
    for (let j = 0; j < 4; j++) {
      if ((i + j) % 2 === 0) boxes.push([line[i]!, line[j]!, line[i + 1]!, line[j + 1]!]);
    }
  }
  return new Boxes(boxes);
}

function eightGaussians(): Law {
  const parts = Array.from({ length: 8 }, (_, c): Moments => ({
    mean: [Math.cos((2 * Math.PI * c) / 8), Math.sin((2 * Math.PI * c) / 8)],
    covariance: [0.01, 0, 0.01],
  }));
  return new Gaussians(parts, Int32Array.from(parts.keys()), new Float64Array(8).fill(1));
}

/** The laws that come with the page, by the names of `toydiffusion.distributions.BUILT_IN`. */
export const BUILT_IN: Record<string, () => Law> = {
  square: () => new Boxes([[-1, -1, 1, 1]]),
  concentric_squares: concentricSquares,
  checkerboard,
  gaussian: () =>
    new Gaussians([{ mean: [0.5, -0.5], covariance: [1, 0.6, 0.5] }], Int32Array.of(0), Float64Array.of(1)),
  eight_gaussians: eightGaussians,
  two_moons: () => new Arcs([circle(0, 0, 1, 0, Math.PI), circle(1, 0.5, 1, Math.PI, 2 * Math.PI)], 0.1),
  circles: () => new Arcs([circle(0, 0, 1, 0, 2 * Math.PI), circle(0, 0, 0.5, 0, 2 * Math.PI)], 0.1),
  spiral: () => new Arcs([arm(0), arm(Math.PI)], 0.05),
};
