/** The words of the engine. Points are rows of two numbers, one after another, in float64. */

/** Noise levels: one number for all rows, or one for each. */
export type Levels = number | Float64Array;

/** Class indices, one for each row; null where there are no labels, or for their mixture. */
export type Labels = Int32Array | null;

/** The posterior mean of the clean point: of an exact law, or of a network. */
export interface Denoiser {
  /** Put `E[clean | z]` of points `z` (n, 2) into `out` (n, 2). */
  denoise(z: Float64Array, sigma: Levels, label: Labels, out: Float64Array): void;
}

/** Two columns: mean and covariance `[xx, xy, yy]`. */
export interface Moments {
  mean: [number, number];
  covariance: [number, number, number];
}
