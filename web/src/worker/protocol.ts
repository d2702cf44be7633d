/** What the page and its engine say to each other. Everything in x, the user's coordinates, unless said. */

import type { Elbo } from "../engine/elbo";
import type { ClassName } from "../engine/modelfile";
import { SAMPLING, type SampleConfig } from "../engine/solvers";
import { DEFAULTS, type Terms, type TrainConfig } from "../engine/training";

/** Where the training points come from. */
export type Data =
  | { kind: "law"; law: string; count: number; seed: number }
  | { kind: "points"; points: number[]; labels: number[] | null; names: ClassName[] | null };

/** All that decides a run. The same settings give the same run, here and in Python. */
export interface Settings {
  data: Data;
  config: TrainConfig;
  seed: number;
  sampling: SampleConfig;
  count: number;
  sampleSeed: number;
  /** The class to sample and to map, or null for the mixture. */
  label: number | null;
}

/** The square, and the defaults of `toydiffusion`. */
export const DEFAULT_SETTINGS: Settings = {
  data: { kind: "law", law: "square", count: 1000, seed: 0 },
  config: DEFAULTS,
  seed: 0,
  sampling: SAMPLING,
  count: 1000,
  sampleSeed: 1,
  label: null,
};

/** What is known once the points are there. */
export interface Start {
  points: Float32Array;
  labels: Int32Array;
  classes: ClassName[] | null;
  frequencies: number[];
  /** Whether the exact law of the points is known. */
  exact: boolean;
  mean: [number, number];
  scale: [number, number];
  step: number;
  steps: number;
  pointsPerStep: number;
  weights: number;
  losses: number[];
  sigmaMin: number;
  sigmaMax: number;
}

/** Something wrong in the sampler, on purpose: each a mistake that people make. */
export type Fault = "none" | "backwards" | "start" | "shared-noise";

export interface SampleRequest {
  plan: SampleConfig;
  count: number;
  seed: number;
  label: number | null;
  /** Whose denoiser: the network, the exact law, or that of the training points themselves. */
  source: Source;
  fault: Fault;
}

export type Source = "learned" | "exact" | "memory";

/** The points at every level: `stages[s]` has `2 n` numbers. The last level is 0. */
export interface Samples {
  levels: number[];
  stages: Float32Array[];
  labels: Int32Array;
}

export type MapKind = "exact" | "learned" | "difference" | "class";

/** A square window of the plane. */
export interface Area {
  left: number;
  bottom: number;
  size: number;
}

export interface MapRequest {
  kind: MapKind;
  sigma: number;
  label: number | null;
  window: Area;
}

/** Log-densities (nats) at the centres of `size` x `size` cells, row by row from the bottom. */
export interface MapPart {
  size: number;
  values: Float32Array;
  done: boolean;
}

export interface FieldRequest {
  source: Source;
  sigma: number;
  label: number | null;
  window: Area;
  cells: number;
}

/** What one point shows. Log-densities in nats. */
export interface Inspection {
  x: [number, number];
  learned: number;
  error: number;
  exact: number | null;
  elbo: Elbo;
  /** The bound of the original project, without the square: it bounds nothing. */
  wrongElbo: number;
  classes: number[] | null;
  exactClasses: number[] | null;
  evaluations: number;
  /** From the point up to the highest level, along the flow. */
  path: Float32Array;
}

/** The clean points that may hide behind a noisy one. */
export interface Belief {
  learned: [number, number];
  exact: [number, number] | null;
  cloud: Float32Array;
}

/** How far the network is from the truth, level by level. */
export interface Judgement {
  sigma: number[];
  /** What each level adds to the KL divergence, per unit of log sigma; null without an exact law. */
  kl: number[] | null;
  total: number | null;
  leastLoss: number | null;
  fresh: number;
  train: number;
  /** The standard deviation of the noise that the network predicts, and of the best prediction. */
  predicted: number[];
  ideal: number[] | null;
}

/** Requests: name, argument, result. */
export interface Calls {
  setup: [Settings, Start];
  open: [Uint8Array, Start & { settings: Settings }];
  run: [null, null];
  pause: [null, null];
  step: [null, Terms];
  sample: [SampleRequest, Samples];
  map: [MapRequest, null];
  field: [FieldRequest, Float32Array];
  inspect: [{ x: [number, number]; label: number | null; seed: number }, Inspection];
  believe: [{ x: [number, number]; sigma: number; label: number | null }, Belief];
  judge: [null, Judgement];
  save: [null, Uint8Array];
}

/** What the engine tells without being asked. */
export type News =
  | { news: "training"; step: number; losses: number[]; done: boolean; running: boolean; heldOut: [number, number][] }
  | { news: "map"; part: MapPart }
  | { news: "trouble"; message: string };
