/** A run as a link: all settings, the seeds and drawn points, as data that is checked before it is used. */

import { PRECONDITIONINGS } from "../engine/network";
import { SCHEDULES } from "../engine/schedules";
import { SOLVERS } from "../engine/solvers";
import { DEFAULTS, type TrainConfig } from "../engine/training";
import { DEFAULT_SETTINGS, type Data, type Settings } from "../worker/protocol";
import { LAWS } from "./words";

type Json = Record<string, unknown>;

const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);

/** The parts that differ from the defaults, as text for a link. */
export function toHash(settings: Settings): string {
  const changed = (now: object, before: object): Json =>
    Object.fromEntries(Object.entries(now).filter(([key, value]) => value !== before[key as keyof object]));
  const { data, config, sampling, ...rest } = settings;
  const own: Json = changed(rest, DEFAULT_SETTINGS);
  const c = changed(config, DEFAULTS), s = changed(sampling, DEFAULT_SETTINGS.sampling);
  if (Object.keys(c).length) own.config = c;
  if (Object.keys(s).length) own.sampling = s;
  own.data =
    data.kind === "law" ? data : { ...data, points: data.points.map((v) => Number(v.toPrecision(4))) };
  const bytes = new TextEncoder().encode(JSON.stringify(own));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** The settings of a link; null if it is not one of ours. Nothing but numbers and known names gets through. */
export function fromHash(text: string): Settings | null {
  let given: unknown;
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    given = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return null;
  }
  if (!isObject(given)) return null;
  const whole = (value: unknown, least: number, most: number, other: number): number =>
    Number.isInteger(value) && (value as number) >= least && (value as number) <= most ? (value as number) : other;
  const config = configFrom(isObject(given.config) ? given.config : {});
  const s = isObject(given.sampling) ? given.sampling : {}, plain = DEFAULT_SETTINGS.sampling;
  const data = dataFrom(given.data);
  if (!data) return null;
  return {
    data,
    config,
    seed: whole(given.seed, 0, 2 ** 53 - 1, 0),
    sampling: {
      ...plain,
      steps: whole(s.steps, 1, 5000, plain.steps),
      solver: known(s.solver, SOLVERS) ?? plain.solver,
      schedule: SCHEDULES.includes(s.schedule as string) ? (s.schedule as string) : null,
      sigma_start: between(s.sigma_start, config.sigma_min * 1.001, config.sigma_max),
      guidance: between(s.guidance, -20, 20) ?? plain.guidance,
    },
    count: whole(given.count, 1, 20_000, DEFAULT_SETTINGS.count),
    sampleSeed: whole(given.sampleSeed, 0, 2 ** 53 - 1, DEFAULT_SETTINGS.sampleSeed),
    label: given.label === null || given.label === undefined ? null : whole(given.label, 0, 63, 0),
  };
}

const known = (value: unknown, table: object): string | null =>
  typeof value === "string" && Object.hasOwn(table, value) ? value : null;
const between = (value: unknown, low: number, high: number): number | null =>
  typeof value === "number" && value >= low && value <= high ? value : null;

/** The limits of what a page trains, by setting. */
export const LIMITS = {
  width: [1, 256],
  hidden_layers: [1, 6],
  edges: [0, 256],
  waves: [0, 64],
  steps: [1, 100_000],
  batch_size: [16, 8000],
} as const;

function configFrom(given: Json): TrainConfig {
  const config = { ...DEFAULTS };
  for (const [name, [low, high]] of Object.entries(LIMITS)) {
    const value = given[name];
    if (Number.isInteger(value) && between(value, low, high) !== null) Object.assign(config, { [name]: value });
  }
  config.schedule = SCHEDULES.includes(given.schedule as string) ? (given.schedule as string) : config.schedule;
  config.preconditioning = known(given.preconditioning, PRECONDITIONINGS) ?? config.preconditioning;
  config.learning_rate = between(given.learning_rate, 1e-6, 0.999) ?? config.learning_rate;
  config.averaging = between(given.averaging, 0, 0.999) ?? config.averaging;
  config.label_dropout = between(given.label_dropout, 0, 0.999) ?? config.label_dropout;
  config.held_out = between(given.held_out, 0, 0.9) ?? config.held_out;
  const low = between(given.sigma_min, 1e-4, 1), high = between(given.sigma_max, 1.5, 1000);
  config.sigma_min = low ?? config.sigma_min;
  config.sigma_max = high ?? config.sigma_max;
  if (typeof given.standardize === "boolean") config.standardize = given.standardize;
  return config;
}

function dataFrom(given: unknown): Data | null {
  if (!isObject(given)) return null;
  if (given.kind === "law") {
    const law = known(given.law, LAWS), { count, seed } = given;
    if (!law || !Number.isInteger(count) || !Number.isInteger(seed)) return null;
    if ((count as number) < 2 || (count as number) > 20_000 || (seed as number) < 0) return null;
    return { kind: "law", law, count: count as number, seed: seed as number };
  }
  const { points, labels, names } = given;
  if (given.kind !== "points" || !Array.isArray(points) || points.length % 2 || points.length > 40_000) return null;
  if (!points.every((v) => between(v, -1e9, 1e9) !== null)) return null;
  const own = Array.isArray(labels) && labels.length === points.length / 2 ? labels : null;
  if (own && !own.every((v) => Number.isInteger(v) && between(v, 0, 63) !== null)) return null;
  const texts = Array.isArray(names) && names.length <= 64 && names.every((v) => typeof v === "string" && v.length < 100);
  return { kind: "points", points, labels: own, names: own && texts ? (names as string[]) : null };
}
