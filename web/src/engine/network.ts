/** The learned denoiser, the twin of `toydiffusion.denoisers.Network` for two columns, on WASM kernels. */

import { Workspace } from "./kernel";
import type { Generator } from "./random";
import type { Denoiser, Labels, Levels } from "./types";

/** The settings that decide the shape of a network. */
export interface Architecture {
  numClasses: number;
  width: number;
  hiddenLayers: number;
  edges: number;
  waves: number;
  preconditioning: string;
}

interface Preconditioning {
  skip(sigma: number): number;
  out(sigma: number): number;
}

/** `D = c_skip z + c_out F(c_in z)`: what F predicts. */
export const PRECONDITIONINGS: Record<string, Preconditioning> = {
  noise: { skip: () => 1, out: (s) => -s },
  data: { skip: () => 0, out: () => 1 },
  edm: { skip: (s) => 1 / (1 + s * s), out: (s) => s / Math.sqrt(1 + s * s) },
};

/** Points in a tile of values (as many as the kernel `outer` counts on), and in a tile of values with their two derivatives. */
const TILE = 64, TRACED = 16;
const OCTAVES = [0.125, 0.25, 0.5, 1];
const EMBEDDING = 16;
/** The softness of each edge unit before training. */
const SOFTNESS = 0.05;
/** Where the inputs begin: cosines and sines of log sigma, then the position, then the edge units. */
const PLACE = 8, EDGES = 10;
/** The column of the first weights that Python's column c is: there the position comes first. */
const firstColumn = (c: number): number => (c < 2 ? PLACE + c : c < EDGES ? c - 2 : c);

const padded = (n: number): number => Math.ceil(n / 4) * 4;
const levelOf = (sigma: Levels, i: number): number => (typeof sigma === "number" ? sigma : sigma[i]!);

/** A tensor of weights in a table whose numbers of rows and columns are multiples of 4 where kernels ask. */
interface Tensor {
  name: string;
  shape: number[];
  at: number;
  /** The numbers from one row to the next. */
  stride: number;
}

export class Network implements Denoiser {
  /** The weights that training changes, then those that it does not. */
  readonly tensors: Tensor[] = [];
  private readonly space = new Workspace();
  private readonly scheme: Preconditioning;
  private readonly inputs: number;
  private readonly classRows: number;
  private readonly embedding: number;
  /** Weights, their average, Adam's moments and the gradient: five tables of the same layout. */
  private readonly numbers: number;
  private readonly offsets = new Map<string, Tensor>();
  private readonly base: { weights: number; average: number; mean: number; square: number; gradient: number };
  private readonly layers: { inputs: number; outputs: number; weight: number; bias: number }[] = [];
  private readonly waveDirection: Float32Array;
  /** The first bias with the part of one level. */
  private readonly onceAt: number;
  private readonly values: Tiles;
  private readonly traced: Tiles;
  private backward: Backward | null = null;

  constructor(
    readonly architecture: Architecture,
    generator: Generator | null = null,
  ) {
    const { numClasses, width, hiddenLayers, edges, waves } = architecture;
    this.scheme = PRECONDITIONINGS[architecture.preconditioning]!;
    this.classRows = numClasses > 1 ? numClasses + 1 : 1;
    this.embedding = numClasses > 1 ? EMBEDDING : 0;
    const inputs = EDGES + edges + 2 * waves + this.embedding;
    this.inputs = padded(inputs);
    const sizes = [inputs, ...Array<number>(hiddenLayers).fill(width), 2];
    const w = padded(width), inner = [this.inputs, ...Array<number>(hiddenLayers).fill(w), 4];

    let size = 0;
    const add = (name: string, shape: number[], rows: number, stride: number): void => {
      const tensor = { name, shape, at: size * 4, stride };
      this.tensors.push(tensor);
      this.offsets.set(name, tensor);
      size += padded(rows * stride);
    };
    add("edge_direction", [edges, 2], padded(edges), 2);
    add("edge_offset", [edges], 1, padded(edges));
    add("edge_label_offset", [this.classRows, edges], this.classRows, edges);
    add("edge_softness", [edges], 1, padded(edges));
    add("embedding", [this.classRows, this.embedding], this.classRows, this.embedding);
    for (let i = 0; i <= hiddenLayers; i++) {
      add(`weights.${i}`, [sizes[i + 1]!, sizes[i]!], inner[i + 1]!, inner[i]!);
      add(`biases.${i}`, [sizes[i + 1]!], 1, inner[i + 1]!);
    }
    this.numbers = size;
    const table = (): number => this.space.table(size + 4 * w);
    this.base = { weights: table(), average: table(), mean: table(), square: table(), gradient: table() };
    for (let i = 0; i <= hiddenLayers; i++) {
      const at = (name: string): number => this.base.weights + this.offsets.get(name)!.at;
      this.layers.push({
        inputs: inner[i]!,
        outputs: inner[i + 1]!,
        weight: at(`weights.${i}`),
        bias: at(`biases.${i}`),
      });
    }
    this.waveDirection = new Float32Array(2 * waves);
    this.onceAt = this.space.table(w);
    this.values = new Tiles(this.space, this.inputs, w, TILE, TILE, edges);
    this.traced = new Tiles(this.space, this.inputs, w, TRACED, 3 * TRACED, edges);
    if (generator) this.initialise(generator);
  }

  /** The initial weights, in the order in which Python draws them. */
  private initialise(generator: Generator): void {
    const { hiddenLayers, edges, waves } = this.architecture;
    const direction = generator.normalFloats(2 * edges);
    for (let e = 0; e < edges; e++) {
      const length = Math.max(Math.hypot(direction[2 * e]!, direction[2 * e + 1]!), 1e-12);
      direction[2 * e]! /= length;
      direction[2 * e + 1]! /= length;
    }
    this.set("edge_direction", direction);
    const uniform = (n: number, scale: number): number[] =>
      Array.from({ length: n }, () => (2 * generator.uniformFloat() - 1) * scale);
    this.set("edge_offset", uniform(edges, 2));
    this.set("edge_softness", Array<number>(edges).fill(SOFTNESS));
    this.set("embedding", generator.normalFloats(this.classRows * this.embedding));
    const wave = generator.normalFloats(2 * waves);
    this.waveDirection.set(wave.map((v) => v * Math.PI));
    for (let i = 0; i < hiddenLayers; i++) {
      const [rows, columns] = this.offsets.get(`weights.${i}`)!.shape as [number, number];
      this.set(`weights.${i}`, uniform(rows * columns, columns ** -0.5));
      this.set(`biases.${i}`, uniform(rows, columns ** -0.5));
    }
    this.view("average").set(this.view("weights"));
  }

  /** The number of trained weights, without padding. */
  get size(): number {
    return this.tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  }

  private view(which: keyof Network["base"]): Float32Array {
    return this.space.floats(this.base[which], this.numbers);
  }

  private slot(name: string, which: keyof Network["base"]): { tensor: Tensor; numbers: Float32Array } {
    const tensor = this.offsets.get(name)!;
    const rows = tensor.shape.length > 1 ? tensor.shape[0]! : 1;
    return { tensor, numbers: this.space.floats(this.base[which] + tensor.at, rows * tensor.stride) };
  }

  /** A tensor by its name in Python's `state_dict`, row by row. */
  get(name: string, which: keyof Network["base"] = "weights"): Float32Array {
    if (name === "wave_direction") return this.waveDirection.slice();
    const { tensor, numbers } = this.slot(name, which);
    const columns = tensor.shape[tensor.shape.length - 1]!;
    const rows = tensor.shape.length > 1 ? tensor.shape[0]! : 1;
    const out = new Float32Array(rows * columns);
    const place = name === "weights.0" ? firstColumn : (c: number): number => c;
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) out[r * columns + c] = numbers[r * tensor.stride + place(c)]!;
    }
    return out;
  }

  /** Change a tensor. */
  set(name: string, values: ArrayLike<number>, which: keyof Network["base"] = "weights"): void {
    if (name === "wave_direction") {
      this.waveDirection.set(values);
      return;
    }
    const { tensor, numbers } = this.slot(name, which);
    const columns = tensor.shape[tensor.shape.length - 1]!;
    const rows = tensor.shape.length > 1 ? tensor.shape[0]! : 1;
    const place = name === "weights.0" ? firstColumn : (c: number): number => c;
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) numbers[r * tensor.stride + place(c)] = values[r * columns + c]!;
    }
  }

  /** A new network with the averaged weights of this one, to sample and score with. */
  averaged(): Network {
    const copy = new Network(this.architecture);
    copy.waveDirection.set(this.waveDirection);
    copy.averageOf(this);
    return copy;
  }

  /** Take the averaged weights of another network of the same architecture. */
  averageOf(other: Network): void {
    this.view("weights").set(other.view("average"));
  }

  // Evaluation ---------------------------------------------------------------------------------------

  denoise(z: Float64Array, sigma: Levels, label: Labels, out: Float64Array): void {
    const tiles = this.values, n = z.length / 2;
    this.prepare(sigma);
    for (let first = 0; first < n; first += TILE) {
      const count = Math.min(TILE, n - first);
      this.fill(tiles, z, sigma, label, first, count, false);
      this.forward(tiles, sigma, false);
      const { answer } = tiles.views;
      for (let c = 0; c < count; c++) {
        const i = first + c, level = levelOf(sigma, i);
        const skip = this.scheme.skip(level), gain = this.scheme.out(level);
        out[2 * i] = skip * z[2 * i]! + gain * answer[c]!;
        out[2 * i + 1] = skip * z[2 * i + 1]! + gain * answer[TILE + c]!;
      }
    }
  }

  /** The denoised points `(n, 2)` into `out`, and the trace of their Jacobian in z, `(n,)`, into `trace`. */
  denoiseWithTrace(
    z: Float64Array, sigma: Levels, label: Labels, out: Float64Array, trace: Float64Array,
  ): void {
    const tiles = this.traced, n = z.length / 2, row = 3 * TRACED;
    this.prepare(sigma);
    for (let first = 0; first < n; first += TRACED) {
      const count = Math.min(TRACED, n - first);
      this.fill(tiles, z, sigma, label, first, count, true);
      this.forward(tiles, sigma, true);
      const { answer } = tiles.views;
      for (let c = 0; c < count; c++) {
        const i = first + c, level = levelOf(sigma, i);
        const skip = this.scheme.skip(level), gain = this.scheme.out(level);
        out[2 * i] = skip * z[2 * i]! + gain * answer[c]!;
        out[2 * i + 1] = skip * z[2 * i + 1]! + gain * answer[row + c]!;
        const along = answer[TRACED + c]! + answer[row + 2 * TRACED + c]!;
        trace[i] = 2 * skip + gain * along;
      }
    }
  }

  /**
   * What all points share: the offsets of the edges without labels, two tables that always go together; and the
   * first bias with the part of one level, which is then no input any more.
   */
  private prepare(sigma: Levels): void {
    if (typeof sigma === "number") {
      const bias = this.slot("biases.0", "weights").numbers, { tensor, numbers } = this.slot("weights.0", "weights");
      const once = this.space.floats(this.onceAt, bias.length), angle = OCTAVES.map((o) => o * Math.log(sigma));
      bias.subarray(0, this.architecture.width).forEach((b, o) => {
        let sum = b;
        angle.forEach((a, k) => {
          sum += numbers[o * tensor.stride + k]! * Math.cos(a) + numbers[o * tensor.stride + 4 + k]! * Math.sin(a);
        });
        once[o] = sum;
      });
    }
    if (this.classRows > 1) return;
    const own = this.slot("edge_offset", "weights").numbers, more = this.slot("edge_label_offset", "weights").numbers;
    for (const tiles of [this.values, this.traced]) {
      for (let e = 0; e < this.architecture.edges; e++) tiles.views.offset[e] = own[e]! + more[e]!;
    }
  }

  /**
   * Put the inputs of these points into a tile. The columns without a point repeat the last one's level.
   * `w . z + b` of the edge units goes to `aheadAt`, unless it is 0.
   */
  private fill(
    tiles: Tiles, z: Float64Array, sigma: Levels, label: Labels, first: number, count: number, traced: boolean,
    aheadAt = 0,
  ): void {
    const { points, columns } = tiles, { input, place, level: levels, rows } = tiles.views;
    const { edges, waves, numClasses } = this.architecture;
    // One level for all points is in the bias already (`prepare`).
    const several = typeof sigma !== "number";
    let before = NaN, shrink = 0;
    for (let c = 0; c < points; c++) {
      const i = first + Math.min(c, count - 1), x = z[2 * i]!, y = z[2 * i + 1]!;
      const level = levelOf(sigma, i);
      if (level !== before) {
        shrink = 1 / Math.sqrt(1 + level * level);
        if (several) tiles.octaves(level, c);
        before = level;
      } else if (several) tiles.repeatOctaves(c);
      place[c] = x;
      place[points + c] = y;
      levels[c] = level;
      input[PLACE * columns + c] = x * shrink;
      input[(PLACE + 1) * columns + c] = y * shrink;
      if (traced) {
        input[PLACE * columns + points + c] = shrink;
        input[(PLACE + 1) * columns + 2 * points + c] = shrink;
      }
      if (this.classRows > 1) rows[c] = label ? label[i]! : numClasses;
      for (let k = 0; k < waves; k++) {
        const wx = this.waveDirection[2 * k]!, wy = this.waveDirection[2 * k + 1]!;
        const phase = (wx * x + wy * y) * shrink, cos = Math.cos(phase), sin = Math.sin(phase);
        const a = (EDGES + edges + k) * columns + c, b = a + waves * columns;
        input[a] = cos;
        input[b] = sin;
        if (traced) {
          input[a + points] = -sin * shrink * wx;
          input[a + 2 * points] = -sin * shrink * wy;
          input[b + points] = cos * shrink * wx;
          input[b + 2 * points] = cos * shrink * wy;
        }
      }
    }
    const { run } = this.space, from = this.base.weights;
    const at = (name: string): number => from + this.offsets.get(name)!.at;
    if (this.classRows > 1) {
      run.gather(tiles.moreAt, at("edge_label_offset"), tiles.rowsAt, edges, points, points);
      const begin = EDGES + edges + 2 * waves;
      run.gather(tiles.inputAt + 4 * begin * columns, at("embedding"), tiles.rowsAt, EMBEDDING, points, columns);
    }
    const alone = this.classRows === 1;
    run.edges(
      tiles.inputAt + 4 * EDGES * columns, tiles.placeAt, at("edge_direction"),
      alone ? tiles.offsetAt : at("edge_offset"), alone ? 0 : tiles.moreAt, at("edge_softness"), tiles.levelAt,
      aheadAt, edges, points, columns, traced,
    );
  }

  private forward(tiles: Tiles, sigma: Levels, traced: boolean): void {
    const { run } = this.space, { columns, points } = tiles;
    const biased = traced ? points : columns;
    let from = tiles.inputAt;
    this.layers.forEach(({ inputs, outputs, weight, bias }, i) => {
      const last = i === this.layers.length - 1;
      const to = last ? tiles.answerAt : tiles.hiddenAt[i % 2]!;
      const skip = i === 0 && typeof sigma === "number" ? PLACE : 0;
      run.layer(
        to, from + 4 * skip * columns, weight + 4 * skip, skip ? this.onceAt : bias,
        inputs - skip, outputs, columns, biased, inputs,
      );
      if (last) return;
      if (traced) run.siluTangents(to, outputs, columns, points);
      else run.silu(to, to, outputs * columns, false);
      from = to;
    });
  }

  // Training -----------------------------------------------------------------------------------------

  /**
   * The denoising loss at b points with a noise and its opposite; its gradient goes into the table "gradient".
   *
   * `loss = mean (F - T)^2` with `T = (z - c_skip (z +- sigma eps)) / c_out`, as in `training.gradient`.
   */
  lossAndGradient(z: Float32Array, sigma: Float32Array, eps: Float32Array, label: Labels): number {
    const { run } = this.space, b = sigma.length, tiles = this.values;
    const { edges, waves } = this.architecture, g = this.base.gradient;
    this.backward ??= new Backward(this.space, this.layers, this.architecture.edges);
    const back = this.backward;
    this.view("gradient").fill(0);
    this.layers.forEach(({ weight, inputs, outputs }, i) => {
      run.transpose(back.transposed[i]!, weight, inputs, outputs);
    });
    const at = (base: number, name: string): number => base + this.offsets.get(name)!.at;
    const noisy = new Float64Array(2 * TILE), target = new Float64Array(2 * TILE), level = new Float64Array(TILE);
    const rows = label ? new Int32Array(TILE) : null;
    this.prepare(level);
    const half = TILE / 2, share = 2 / (4 * b);
    let loss = 0;
    for (let first = 0; first < b; first += half) {
      const count = Math.min(half, b - first);
      for (let c = 0; c < TILE; c++) {
        // Columns 2 k and 2 k + 1 are a point with its noise, and with the opposite noise.
        const i = first + Math.min(c >> 1, count - 1), s = sigma[i]!, sign = c & 1 ? -1 : 1;
        const skip = this.scheme.skip(s), gain = this.scheme.out(s);
        level[c] = s;
        if (rows) rows[c] = label![i]!;
        for (let k = 0; k < 2; k++) {
          // In float32, as in Python: at low noise the target of "noise" has no more digits than that.
          const clean = z[2 * i + k]!, at = Math.fround(clean + sign * Math.fround(s * eps[2 * i + k]!));
          noisy[2 * c + k] = at;
          target[2 * c + k] = Math.fround(Math.fround(clean - skip * at) / gain);
        }
      }
      this.fill(tiles, noisy, level, rows, 0, TILE, false, back.aheadAt);
      let from = tiles.inputAt;
      this.layers.forEach(({ inputs, outputs, weight, bias }, i) => {
        const last = i === this.layers.length - 1;
        const to = last ? tiles.answerAt : back.before[i]!;
        run.layer(to, from, weight, bias, inputs, outputs, TILE, TILE, inputs);
        if (!last) run.silu(back.after[i]!, to, outputs * TILE, true);
        from = back.after[i]!;
      });
      const { answer } = tiles.views;
      for (let c = 0; c < TILE; c++) {
        const real = c >> 1 < count;
        for (let k = 0; k < 2; k++) {
          const error = answer[k * TILE + c]! - target[2 * c + k]!;
          if (real) loss += error * error;
          back.last[k * TILE + c] = real ? error * share : 0;
        }
      }
      let slope = back.lastAt;
      for (let i = this.layers.length - 1; i >= 0; i--) {
        const { inputs, outputs } = this.layers[i]!;
        run.outer(at(g, `weights.${i}`), slope, i ? back.after[i - 1]! : tiles.inputAt, inputs, outputs);
        run.rowSums(at(g, `biases.${i}`), slope, outputs, TILE);
        if (!i) break;
        const next = back.slopes[i % 2]!;
        run.layer(next, slope, back.transposed[i]!, back.zeros, outputs, inputs, TILE, 0, outputs);
        run.times(next, back.before[i - 1]!, inputs * TILE);
        slope = next;
      }
      const width = this.layers[0]!.outputs;
      const inputSlope = (begin: number, features: number): number => {
        const from = back.transposed[0]! + 4 * begin * width;
        run.layer(back.inputs, slope, from, back.zeros, width, padded(features), TILE, 0, width);
        return back.inputs;
      };
      if (edges) {
        const inner = inputSlope(EDGES, edges);
        run.edgesBackward(
          inner, tiles.inputAt + 4 * EDGES * TILE, back.aheadAt, at(this.base.weights, "edge_softness"),
          tiles.levelAt, at(g, "edge_softness"), edges, TILE,
        );
        run.outer(at(g, "edge_direction"), inner, tiles.placeAt, 2, padded(edges));
        run.rowSums(at(g, "edge_offset"), inner, edges, TILE);
        if (this.classRows === 1) run.rowSums(at(g, "edge_label_offset"), inner, edges, TILE);
        else run.scatter(at(g, "edge_label_offset"), inner, tiles.rowsAt, edges, TILE);
      }
      if (this.embedding) {
        const inner = inputSlope(EDGES + edges + 2 * waves, EMBEDDING);
        run.scatter(at(g, "embedding"), inner, tiles.rowsAt, EMBEDDING, TILE);
      }
    }
    return loss / (4 * b);
  }

  /** The length of the gradient. */
  gradientNorm(): number {
    let sum = 0;
    for (const { name } of this.tensors) for (const g of this.get(name, "gradient")) sum += g * g;
    return Math.sqrt(sum);
  }

  /** Change the weights by Adam's rule as step `step + 1`, and move their average. */
  adam(step: number, rate: number, averaging: number): void {
    const [first, second] = [0.9, 0.999].map((beta) => 1 - beta ** (step + 1)) as [number, number];
    const share = 1 / (1 + averaging * step);
    const { weights, average, mean, square, gradient } = this.base;
    this.space.run.adam(weights, average, mean, square, gradient, this.numbers, rate / first, second, share);
  }
}

/** The tables of one tile of points, with or without their derivatives. */
class Tiles {
  readonly inputAt: number;
  readonly placeAt: number;
  readonly levelAt: number;
  readonly rowsAt: number;
  readonly moreAt: number;
  readonly offsetAt: number;
  readonly answerAt: number;
  readonly hiddenAt: number[];
  private readonly edges: number;

  constructor(
    private readonly space: Workspace,
    private readonly inputs: number,
    width: number,
    readonly points: number,
    readonly columns: number,
    edges: number,
  ) {
    this.edges = edges;
    this.inputAt = space.table((inputs + 4) * columns);
    this.placeAt = space.table(2 * points);
    this.levelAt = space.table(points);
    this.rowsAt = space.table(points);
    this.moreAt = space.table(edges * points + 4);
    this.offsetAt = space.table(edges + 4);
    this.answerAt = space.table(4 * columns);
    this.hiddenAt = [space.table(width * columns), space.table(width * columns)];
  }

  // The views are made anew when the memory has grown.
  private held: { buffer: ArrayBufferLike; views: Views } | null = null;

  /** The tables as arrays. */
  get views(): Views {
    const { buffer } = this.space.run.memory;
    if (this.held?.buffer !== buffer) {
      const { space, points, columns } = this;
      this.held = {
        buffer,
        views: {
          input: space.floats(this.inputAt, this.inputs * columns),
          place: space.floats(this.placeAt, 2 * points),
          level: space.floats(this.levelAt, points),
          rows: space.integers(this.rowsAt, points),
          offset: space.floats(this.offsetAt, this.edges),
          answer: space.floats(this.answerAt, 4 * columns),
        },
      };
    }
    return this.held.views;
  }

  /** Cosines and sines of log sigma in column c: those of an eighth, and the others by doubling the angle. */
  octaves(sigma: number, c: number): void {
    const { columns } = this, { input } = this.views, angle = OCTAVES[0]! * Math.log(sigma);
    let cos = Math.cos(angle), sin = Math.sin(angle);
    for (let k = 0; k < 4; k++) {
      input[k * columns + c] = cos;
      input[(4 + k) * columns + c] = sin;
      [cos, sin] = [cos * cos - sin * sin, 2 * sin * cos];
    }
  }

  /** The same in column c as in the one before. */
  repeatOctaves(c: number): void {
    const { columns } = this, { input } = this.views;
    for (let f = 0; f < PLACE; f++) input[f * columns + c] = input[f * columns + c - 1]!;
  }
}

interface Views {
  input: Float32Array;
  place: Float32Array;
  level: Float32Array;
  rows: Int32Array;
  offset: Float32Array;
  answer: Float32Array;
}

/** The tables that only training needs. */
class Backward {
  readonly transposed: number[];
  readonly before: number[];
  readonly after: number[];
  readonly slopes: number[];
  readonly zeros: number;
  readonly inputs: number;
  /** `w . z + b` of the edge units. */
  readonly aheadAt: number;
  readonly lastAt: number;
  readonly last: Float32Array;

  constructor(space: Workspace, layers: { inputs: number; outputs: number }[], edges: number) {
    const widest = Math.max(...layers.map(({ inputs, outputs }) => Math.max(inputs, outputs)));
    this.transposed = layers.map(({ inputs, outputs }) => space.table((inputs + 4) * outputs));
    this.before = layers.map(({ outputs }) => space.table(outputs * TILE));
    this.after = layers.map(({ outputs }) => space.table(outputs * TILE));
    this.slopes = [space.table(widest * TILE), space.table(widest * TILE)];
    this.zeros = space.table(widest + 4);
    this.inputs = space.table((widest + 4) * TILE);
    this.aheadAt = space.table(edges * TILE);
    this.lastAt = space.table(4 * TILE);
    this.last = space.floats(this.lastAt, 4 * TILE);
  }
}
