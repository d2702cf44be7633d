// The matrix work of a small network, in AssemblyScript with SIMD. `src/engine/network.ts` calls it.
//
// A tile is a table in memory, feature by feature: feature f of column c is the float32 at
// `(f * columns + c) * 4`. A column is a point, or the derivative of a point along an axis. The number of
// columns is a multiple of 8, and the number of features of a layer a multiple of 4 (padded with zeros).

/**
 * `out[o][c] = sum_i weight[o][i] inner[i][c]`, plus `bias[o]` in the first `biased` columns.
 *
 * `stride` is the distance of the rows of `weight`, in numbers; `inputs` of each are used.
 */
export function layer(
  out: usize,
  inner: usize,
  weight: usize,
  bias: usize,
  inputs: i32,
  outputs: i32,
  columns: i32,
  biased: i32,
  stride: i32,
): void {
  const row: usize = (<usize>columns) << 2;
  const across: usize = (<usize>stride) << 2;
  const length: usize = (<usize>inputs) << 2;
  for (let o = 0; o < outputs; o += 4) {
    const w = weight + <usize>o * across;
    const b = bias + ((<usize>o) << 2);
    for (let c = 0; c < columns; c += 8) {
      // Four features by eight columns: eight accumulators fit the registers of every processor.
      let a00 = f32x4.splat(0), a01 = a00, a10 = a00, a11 = a00;
      let a20 = a00, a21 = a00, a30 = a00, a31 = a00;
      if (c < biased) {
        a00 = a01 = v128.load32_splat(b);
        a10 = a11 = v128.load32_splat(b, 4);
        a20 = a21 = v128.load32_splat(b, 8);
        a30 = a31 = v128.load32_splat(b, 12);
      }
      let from = inner + ((<usize>c) << 2);
      const stop = w + length;
      for (let at = w; at < stop; at += 4) {
        const x0 = v128.load(from), x1 = v128.load(from, 16);
        let s = v128.load32_splat(at);
        a00 = f32x4.add(a00, f32x4.mul(s, x0));
        a01 = f32x4.add(a01, f32x4.mul(s, x1));
        s = v128.load32_splat(at + across);
        a10 = f32x4.add(a10, f32x4.mul(s, x0));
        a11 = f32x4.add(a11, f32x4.mul(s, x1));
        s = v128.load32_splat(at + 2 * across);
        a20 = f32x4.add(a20, f32x4.mul(s, x0));
        a21 = f32x4.add(a21, f32x4.mul(s, x1));
        s = v128.load32_splat(at + 3 * across);
        a30 = f32x4.add(a30, f32x4.mul(s, x0));
        a31 = f32x4.add(a31, f32x4.mul(s, x1));
        from += row;
      }
      const to = out + <usize>o * row + ((<usize>c) << 2);
      v128.store(to, a00);
      v128.store(to, a01, 16);
      v128.store(to + row, a10);
      v128.store(to + row, a11, 16);
      v128.store(to + 2 * row, a20);
      v128.store(to + 2 * row, a21, 16);
      v128.store(to + 3 * row, a30);
      v128.store(to + 3 * row, a31, 16);
    }
  }
}

// @ts-ignore: decorator
@inline
function total(a: v128): f32 {
  const pair = f32x4.add(a, v128.shuffle<f32>(a, a, 2, 3, 0, 1));
  return f32x4.extract_lane(pair, 0) + f32x4.extract_lane(pair, 1);
}

/** Add the totals of two tables of four to the two numbers at an address. */
// @ts-ignore: decorator
@inline
function gain(at: usize, a: v128, b: v128): void {
  // (a0 + a2, b0 + b2, a1 + a3, b1 + b3), then its halves.
  const low = v128.shuffle<f32>(a, b, 0, 4, 1, 5), high = v128.shuffle<f32>(a, b, 2, 6, 3, 7);
  const pairs = f32x4.add(low, high);
  const sums = f32x4.add(pairs, v128.shuffle<f32>(pairs, pairs, 2, 3, 0, 1));
  v128.store64_lane(at, f32x4.add(v128.load64_zero(at), sums), 0);
}

/** `gradient[o][i] += sum_c slope[o][c] inner[i][c]` over 64 columns. Numbers of features are multiples of 4. */
export function outer(gradient: usize, slope: usize, inner: usize, inputs: i32, outputs: i32): void {
  // With the number of columns known, the rows lie at fixed distances, and each needs no address of its own.
  const across: usize = (<usize>inputs) << 2;
  for (let o = 0; o < outputs; o += 4) {
    const s = slope + ((<usize>o) << 8);
    const end = s + 256;
    for (let i = 0; i < inputs; i += 2) {
      let x = inner + ((<usize>i) << 8);
      let a00 = f32x4.splat(0), a01 = a00, a10 = a00, a11 = a00;
      let a20 = a00, a21 = a00, a30 = a00, a31 = a00;
      for (let at = s; at < end; at += 16) {
        const x0 = v128.load(x), x1 = v128.load(x, 256);
        let d = v128.load(at);
        a00 = f32x4.add(a00, f32x4.mul(d, x0));
        a01 = f32x4.add(a01, f32x4.mul(d, x1));
        d = v128.load(at, 256);
        a10 = f32x4.add(a10, f32x4.mul(d, x0));
        a11 = f32x4.add(a11, f32x4.mul(d, x1));
        d = v128.load(at, 512);
        a20 = f32x4.add(a20, f32x4.mul(d, x0));
        a21 = f32x4.add(a21, f32x4.mul(d, x1));
        d = v128.load(at, 768);
        a30 = f32x4.add(a30, f32x4.mul(d, x0));
        a31 = f32x4.add(a31, f32x4.mul(d, x1));
        x += 16;
      }
      const to = gradient + <usize>o * across + ((<usize>i) << 2);
      gain(to, a00, a01);
      gain(to + across, a10, a11);
      gain(to + 2 * across, a20, a21);
      gain(to + 3 * across, a30, a31);
    }
  }
}

/** `sums[f] += sum_c tile[f][c]`. */
export function rowSums(sums: usize, tile: usize, features: i32, columns: i32): void {
  const row: usize = (<usize>columns) << 2;
  for (let f = 0; f < features; f++) {
    let a = f32x4.splat(0);
    for (let c: usize = 0; c < row; c += 16) a = f32x4.add(a, v128.load(tile + c));
    const to = sums + ((<usize>f) << 2);
    store<f32>(to, load<f32>(to) + total(a));
    tile += row;
  }
}

/** `out[i][o] = weight[o][i]`. */
export function transpose(out: usize, weight: usize, inputs: i32, outputs: i32): void {
  for (let o = 0; o < outputs; o++) {
    let to = out + ((<usize>o) << 2);
    for (let i = 0; i < inputs; i++) {
      store<f32>(to, load<f32>(weight));
      weight += 4;
      to += (<usize>outputs) << 2;
    }
  }
}

// @ts-ignore: decorator
@inline
function expOf(x: v128): v128 {
  // `pmin` and `pmax` are one instruction each, unlike `min` and `max`; they let NaN through.
  x = f32x4.pmax(f32x4.pmin(x, f32x4.splat(87.0)), f32x4.splat(-87.0));
  // x / log 2 + 1.5 2^23 has no digits behind the point, and its last bits are the whole number k.
  const shifted = f32x4.add(f32x4.mul(x, f32x4.splat(1.4426950408889634)), f32x4.splat(12582912.0));
  const k = f32x4.sub(shifted, f32x4.splat(12582912.0));
  // log 2 in two parts, so that r keeps all its digits.
  let r = f32x4.sub(x, f32x4.mul(k, f32x4.splat(0.693145751953125)));
  r = f32x4.sub(r, f32x4.mul(k, f32x4.splat(1.428606765330187e-6)));
  let p = f32x4.splat(1.0 / 720.0);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0 / 120.0));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0 / 24.0));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0 / 6.0));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(0.5));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.0));
  // p 2^k, by k more in the exponent of p.
  return i32x4.add(p, i32x4.shl(shifted, 23));
}

// @ts-ignore: decorator
@inline
function sigmoid(x: v128): v128 {
  const one = f32x4.splat(1.0);
  return f32x4.div(one, f32x4.add(one, expOf(f32x4.neg(x))));
}

// @ts-ignore: decorator
@inline
function bent(a: v128, s: v128): v128 {
  // silu'(a) = s + a s (1 - s) with s = sigmoid(a)
  return f32x4.add(s, f32x4.mul(f32x4.mul(a, s), f32x4.sub(f32x4.splat(1.0), s)));
}

/** `out = silu(before)`, for so many numbers. With `keep` its slope takes the place of `before`. */
export function silu(out: usize, before: usize, numbers: i32, keep: bool): void {
  const stop = before + ((<usize>numbers) << 2);
  for (; before < stop; before += 16) {
    const a = v128.load(before), s = sigmoid(a);
    if (keep) v128.store(before, bent(a, s));
    v128.store(out, f32x4.mul(a, s));
    out += 16;
  }
}

/** `slope *= factor`, for so many numbers. */
export function times(slope: usize, factor: usize, numbers: i32): void {
  const stop = factor + ((<usize>numbers) << 2);
  for (; factor < stop; factor += 16) {
    v128.store(slope, f32x4.mul(v128.load(slope), v128.load(factor)));
    slope += 16;
  }
}

/** In place: silu of the first `points` columns, and its chain rule in the two derivatives that follow. */
export function siluTangents(tile: usize, features: i32, columns: i32, points: i32): void {
  const row: usize = (<usize>columns) << 2;
  const next: usize = (<usize>points) << 2;
  for (let f = 0; f < features; f++) {
    for (let c: usize = 0; c < next; c += 16) {
      const at = tile + c;
      const a = v128.load(at), s = sigmoid(a), slope = bent(a, s);
      v128.store(at, f32x4.mul(a, s));
      v128.store(at + next, f32x4.mul(v128.load(at + next), slope));
      v128.store(at + 2 * next, f32x4.mul(v128.load(at + 2 * next), slope));
    }
    tile += row;
  }
}

/**
 * The edge units of one tile of points: `4 (sigma / tau) tanh(r / 4)` with `r = (w . z + offset + more) / tau` and
 * `tau^2 = sigma^2 + softness^2`.
 *
 * `place` is the tile of z, two features, and `level` that of sigma, one. `direction` (edges, 2), `offset` and
 * `softness` (edges) are the weights; `more` is a tile of what each label adds, or 0 for none. `out` has `columns`
 * columns, of which the first `points` are written. With `tangents` the derivatives along both axes go into the
 * next columns. `w . z + offset + more` goes to the tile `ahead`, or nowhere if that is 0.
 */
export function edges(
  out: usize, place: usize, direction: usize, offset: usize, more: usize, softness: usize, level: usize,
  ahead: usize, count: i32, points: i32, columns: i32, tangents: bool,
): void {
  const next: usize = (<usize>points) << 2;
  const row: usize = (<usize>columns) << 2;
  const one = f32x4.splat(1.0), half = f32x4.splat(0.5), four = f32x4.splat(4.0);
  for (let e = 0; e < count; e++) {
    const w0 = v128.load32_splat(direction), w1 = v128.load32_splat(direction, 4);
    const b = v128.load32_splat(offset), s = v128.load32_splat(softness), soft = f32x4.mul(s, s);
    for (let c: usize = 0; c < next; c += 16) {
      let r = f32x4.add(b, f32x4.mul(w0, v128.load(place + c)));
      r = f32x4.add(r, f32x4.mul(w1, v128.load(place + next + c)));
      if (more) r = f32x4.add(r, v128.load(more + c));
      if (ahead) v128.store(ahead + c, r);
      const sigma = v128.load(level + c), narrow = sharpness(sigma, soft), gate = f32x4.mul(sigma, narrow);
      // tanh(r / 4) = 1 - 2 / (1 + e^(r / 2))
      const exp = expOf(f32x4.mul(half, f32x4.mul(r, narrow)));
      const bend = f32x4.sub(one, f32x4.div(f32x4.splat(2.0), f32x4.add(one, exp)));
      v128.store(out + c, f32x4.mul(f32x4.mul(four, gate), bend));
      if (tangents) {
        const slope = f32x4.mul(f32x4.mul(gate, narrow), f32x4.sub(one, f32x4.mul(bend, bend)));
        v128.store(out + next + c, f32x4.mul(slope, w0));
        v128.store(out + 2 * next + c, f32x4.mul(slope, w1));
      }
    }
    direction += 8;
    offset += 4;
    softness += 4;
    out += row;
    if (ahead) ahead += row;
    if (more) more += next;
  }
}

/** 1 / tau, for `soft` the square of a softness. */
// @ts-ignore: decorator
@inline
function sharpness(sigma: v128, soft: v128): v128 {
  return f32x4.div(f32x4.splat(1.0), f32x4.sqrt(f32x4.add(f32x4.mul(sigma, sigma), soft)));
}

/**
 * In place: the slope in the edge units `unit` becomes the slope in `ahead = w . z + offset`. The slope in each
 * softness, summed over the columns, is added to `gradient`.
 *
 * With u a unit and a its `ahead`, `du/da = sigma / tau^2 (1 - tanh^2)` and `du/ds = -s / tau^2 (u + a du/da)`.
 */
export function edgesBackward(
  slope: usize, unit: usize, ahead: usize, softness: usize, level: usize, gradient: usize,
  count: i32, columns: i32,
): void {
  const row: usize = (<usize>columns) << 2;
  const one = f32x4.splat(1.0), sixteenth = f32x4.splat(0.0625);
  for (let e = 0; e < count; e++) {
    const s = v128.load32_splat(softness), soft = f32x4.mul(s, s);
    let sum = f32x4.splat(0);
    for (let c: usize = 0; c < row; c += 16) {
      const u = v128.load(unit + c), sigma = v128.load(level + c), outer = v128.load(slope + c);
      const narrow = sharpness(sigma, soft), n2 = f32x4.mul(narrow, narrow), gate = f32x4.mul(sigma, narrow);
      const square = f32x4.div(f32x4.mul(f32x4.mul(u, u), sixteenth), f32x4.mul(gate, gate));
      const inner = f32x4.mul(outer, f32x4.mul(f32x4.mul(sigma, n2), f32x4.sub(one, square)));
      v128.store(slope + c, inner);
      const both = f32x4.add(f32x4.mul(outer, u), f32x4.mul(inner, v128.load(ahead + c)));
      sum = f32x4.add(sum, f32x4.mul(both, n2));
    }
    const total = f32x4.extract_lane(sum, 0) + f32x4.extract_lane(sum, 1) + f32x4.extract_lane(sum, 2) +
      f32x4.extract_lane(sum, 3);
    store<f32>(gradient, load<f32>(gradient) - total * load<f32>(softness));
    slope += row;
    unit += row;
    ahead += row;
    softness += 4;
    gradient += 4;
  }
}

/** `out[f][c] = table[row[c]][f]`, for the columns of a tile of points. */
export function gather(out: usize, table: usize, row: usize, features: i32, points: i32, columns: i32): void {
  const across: usize = (<usize>features) << 2;
  const step: usize = (<usize>columns) << 2;
  for (let c = 0; c < points; c++) {
    let from = table + <usize>load<i32>(row + ((<usize>c) << 2)) * across;
    let to = out + ((<usize>c) << 2);
    for (let f = 0; f < features; f++) {
      store<f32>(to, load<f32>(from));
      from += 4;
      to += step;
    }
  }
}

/** `table[row[c]][f] += slope[f][c]`: the transpose of `gather`. */
export function scatter(table: usize, slope: usize, row: usize, features: i32, columns: i32): void {
  const across: usize = (<usize>features) << 2;
  const step: usize = (<usize>columns) << 2;
  for (let c = 0; c < columns; c++) {
    let to = table + <usize>load<i32>(row + ((<usize>c) << 2)) * across;
    let from = slope + ((<usize>c) << 2);
    for (let f = 0; f < features; f++) {
      store<f32>(to, load<f32>(to) + load<f32>(from));
      to += 4;
      from += step;
    }
  }
}

/**
 * One step of Adam (Kingma & Ba 2015, algorithm 1), and of the running average of the weights.
 *
 * `rate` is the learning rate over the correction of the first moment, `second` the correction of the second,
 * `share` the weight of the new weights in their average.
 */
export function adam(
  weights: usize, average: usize, mean: usize, square: usize, gradient: usize,
  numbers: i32, rate: f32, second: f32, share: f32,
): void {
  const stop = (<usize>numbers) << 2;
  for (let i: usize = 0; i < stop; i += 16) {
    const g = v128.load(gradient + i);
    let m = v128.load(mean + i);
    m = f32x4.add(m, f32x4.mul(f32x4.splat(0.1), f32x4.sub(g, m)));
    v128.store(mean + i, m);
    let v = f32x4.mul(v128.load(square + i), f32x4.splat(0.999));
    v = f32x4.add(v, f32x4.mul(f32x4.splat(0.001), f32x4.mul(g, g)));
    v128.store(square + i, v);
    const size = f32x4.add(f32x4.sqrt(f32x4.div(v, f32x4.splat(second))), f32x4.splat(1e-8));
    const w = f32x4.sub(v128.load(weights + i), f32x4.mul(f32x4.splat(rate), f32x4.div(m, size)));
    v128.store(weights + i, w);
    const a = v128.load(average + i);
    v128.store(average + i, f32x4.add(a, f32x4.mul(f32x4.splat(share), f32x4.sub(w, a))));
  }
}
