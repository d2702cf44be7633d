/** Functions of the normal law that JavaScript lacks. */

/** Chebyshev coefficients of `(1 + 2 x) erfcx(x)` in `(x - 3.75) / (x + 3.75)`, computed in 40 digits. */
const ERFCX = [
  2.35515786913480351, -0.00459005458064647733, -0.0842491333665179156, 0.0592099399981918905,
  -0.0266586684353057523, 0.00907499767070526509, -0.00241316354041760819, 0.000490775836525808632,
  -0.0000691697330250120637, 4.13902798607301017e-6, 7.74038306619849067e-7, -2.18864010492343957e-7,
  1.07649994656709104e-8, 4.5219598112182869e-9, -7.75440020883135111e-10, -6.31808834088668449e-11,
  2.8687950109306699e-11, 1.94558685457773472e-13, -9.65469674843343891e-13, 3.25254814814873984e-14,
  3.34781194828680539e-14, -1.8645628804193131e-15, -1.25079505306886471e-15, 7.41823525662404346e-17,
];

/** `e^(x^2) erfc(x)`, for x >= 0. */
export function erfcx(x: number): number {
  const t = x === Infinity ? 1 : (x - 3.75) / (x + 3.75);
  let b = 0, before = 0;
  for (let k = ERFCX.length - 1; k > 0; k--) {
    const next = 2 * t * b - before + ERFCX[k]!;
    before = b;
    b = next;
  }
  return (t * b - before + ERFCX[0]! / 2) / (1 + 2 * x);
}

/** The standard normal distribution function. */
export function ndtr(x: number): number {
  const tail = 0.5 * Math.exp((-x * x) / 2) * erfcx(Math.abs(x) * Math.SQRT1_2);
  return x < 0 ? tail : 1 - tail;
}

/** Its inverse on (0, 1), by Newton's method on the logarithm of the tail. */
export function ndtri(p: number): number {
  if (p > 0.5) return -ndtri(1 - p);
  if (p === 0.5) return 0;
  const aim = Math.log(p);
  let x = -Math.sqrt(Math.max(-2 * aim - Math.log(-2 * aim + 1) - 0.5, 0.01));
  for (let i = 0; i < 60; i++) {
    // log Phi(x) = log(erfcx / 2) - x^2 / 2, with the slope phi / Phi = sqrt(2 / pi) / erfcx.
    const tail = erfcx(-x * Math.SQRT1_2);
    const step = (Math.log(tail / 2) - (x * x) / 2 - aim) / (Math.sqrt(2 / Math.PI) / tail);
    x = Math.min(x - step, 0);
    if (Math.abs(step) < 1e-15 * (1 + Math.abs(x))) break;
  }
  return x;
}

/** `log sum exp` of numbers, some of which may be minus infinity. */
export function logSumExp(values: ArrayLike<number>): number {
  let most = -Infinity;
  for (let i = 0; i < values.length; i++) most = Math.max(most, values[i]!);
  if (most === -Infinity) return most;
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += Math.exp(values[i]! - most);
  return most + Math.log(sum);
}

/** Nodes and weights of Gauss and Legendre on (-1, 1). */
export function legendre(n: number): { nodes: Float64Array; weights: Float64Array } {
  const nodes = new Float64Array(n), weights = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    let x = -Math.cos((Math.PI * (i + 0.75)) / (n + 0.5)), slope = 0;
    for (let round = 0; round < 100; round++) {
      let p = 1, before = 0;
      for (let k = 0; k < n; k++) [p, before] = [((2 * k + 1) * x * p - k * before) / (k + 1), p];
      slope = (n * (x * p - before)) / (x * x - 1);
      const step = p / slope;
      x -= step;
      if (Math.abs(step) < 1e-16) break;
    }
    nodes[i] = x;
    weights[i] = 2 / ((1 - x * x) * slope * slope);
  }
  return { nodes, weights };
}
