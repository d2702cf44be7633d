/** Model files of Python, in and out: safetensors with JSON metadata and a digest (`toydiffusion.files`). */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, utf8ToBytes } from "@noble/hashes/utils.js";
import { Gaussians } from "./laws";
import { Network, PRECONDITIONINGS } from "./network";
import { SCHEDULES } from "./schedules";
import { SOLVERS, type SampleConfig } from "./solvers";
import { DEFAULTS, Standardizer, architecture, type TrainConfig } from "./training";
import type { Moments } from "./types";

const FORMAT = 2;
/** The most weights of a network that the page opens. */
const MOST_WEIGHTS = 4_000_000;

/** A class name as it stands in the user's data. */
export type ClassName = string | number | boolean;

/** Everything in a model file: `toydiffusion.model.FittedModel` for two columns. */
export interface Model {
  network: Network;
  config: TrainConfig;
  sampling: SampleConfig;
  standardizer: Standardizer;
  /** For each class the Gaussian of its moments, in z. */
  prior: Gaussians;
  columns: string[] | null;
  labelColumn: string | null;
  classes: ClassName[] | null;
  losses: number[];
  heldOut: [number, number][];
  seed: number;
  numPoints: number;
}

/** What is wrong with a file, for a person to read. */
export class FileError extends Error {}

interface Tensor {
  dtype: "float32" | "float64" | "int64";
  shape: number[];
  bytes: Uint8Array;
}

const DTYPES = { F32: ["float32", 4], F64: ["float64", 8], I64: ["int64", 8] } as const;

/** JSON as Python's `json.dumps` writes a list of texts and whole numbers. */
function pythonJson(values: readonly (string | number | readonly number[])[]): string {
  const text = (value: string): string =>
    JSON.stringify(value).replace(/[^\x20-\x7e]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const one = (value: string | number | readonly number[]): string =>
    typeof value === "string" ? text(value) : Array.isArray(value) ? `[${value.join(", ")}]` : String(value);
  return `[${values.map(one).join(", ")}]`;
}

function digestOf(text: string, tensors: Map<string, Tensor>): string {
  const hash = sha256.create();
  hash.update(utf8ToBytes(pythonJson(["model", FORMAT, text])));
  for (const name of [...tensors.keys()].sort()) {
    const { dtype, shape, bytes } = tensors.get(name)!;
    hash.update(utf8ToBytes(pythonJson([name, `torch.${dtype}`, shape])));
    hash.update(bytes);
  }
  return bytesToHex(hash.digest());
}

// Reading --------------------------------------------------------------------------------------------

type Json = Record<string, unknown>;
const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);

function parsed(text: string, words: string): Json {
  try {
    const tree: unknown = JSON.parse(text);
    if (isObject(tree)) return tree;
  } catch {
    // Said below.
  }
  throw new FileError(words);
}

const CUT = "This is not a model file, or it is cut off. The page opens files that toydiffusion saved (.safetensors).";
const ALTERED = "This file was altered after it was saved: ";

function archive(bytes: Uint8Array): { meta: Json; tensors: Map<string, Tensor> } {
  if (bytes.length < 10) throw new FileError(CUT);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = Number(view.getBigUint64(0, true));
  if (!(size > 1 && size <= bytes.length - 8 && size < 1e8)) throw new FileError(CUT);
  const header = parsed(new TextDecoder().decode(bytes.subarray(8, 8 + size)), CUT);
  const entry = isObject(header.__metadata__) ? header.__metadata__.toydiffusion : undefined;
  if (typeof entry !== "string") throw new FileError("This file was not saved by toydiffusion.");
  const stamp = parsed(entry, ALTERED + "its header cannot be read.");
  if (stamp.kind !== "model") throw new FileError(`This is a ${String(stamp.kind)} file, not a model file.`);
  if (stamp.format !== FORMAT) {
    throw new FileError(`This file has format version ${String(stamp.format)}; the page reads version ${FORMAT}.`);
  }
  const tensors = new Map<string, Tensor>(), data = bytes.subarray(8 + size);
  for (const [name, given] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const known = isObject(given) ? DTYPES[given.dtype as keyof typeof DTYPES] : undefined;
    const shape = isObject(given) ? given.shape : null, offsets = isObject(given) ? given.data_offsets : null;
    if (!known || !Array.isArray(shape) || !Array.isArray(offsets)) throw new FileError(CUT);
    const [from, to] = offsets as [number, number], numbers = (shape as number[]).reduce((a, b) => a * b, 1);
    if (!(from >= 0 && to <= data.length && to - from === numbers * known[1])) throw new FileError(CUT);
    tensors.set(name, { dtype: known[0], shape: shape as number[], bytes: data.slice(from, to) });
  }
  const text = stamp.metadata;
  if (typeof text !== "string" || stamp.digest !== digestOf(text, tensors)) {
    throw new FileError(ALTERED + "its contents do not match its digest.");
  }
  return { meta: parsed(text, ALTERED + "its metadata is not an object."), tensors };
}

function numbersOf({ dtype, bytes }: Tensor): Float64Array {
  const { buffer, byteOffset, length } = bytes;
  if (dtype === "int64") throw new FileError(ALTERED + "it has numbers of another type.");
  const numbers =
    dtype === "float32" ? new Float32Array(buffer, byteOffset, length / 4) : new Float64Array(buffer, byteOffset, length / 8);
  return Float64Array.from(numbers);
}

/** The fields of a configuration, each of the type of its default. */
function settings<T extends object>(words: string, given: unknown, like: T): T {
  if (!isObject(given)) throw new FileError(`${ALTERED}its ${words} is not an object.`);
  for (const [name, value] of Object.entries(like)) {
    const got = given[name];
    const fits = value === null ? got === null || ["number", "string"].includes(typeof got) : typeof got === typeof value;
    if (!fits) throw new FileError(`${ALTERED}its ${words} lacks a usable ${name}.`);
  }
  return Object.fromEntries(Object.keys(like).map((name) => [name, given[name]])) as T;
}

/** Open a model file. Raises `FileError` for anything but an intact model of two columns. */
export function openModel(bytes: Uint8Array): Model {
  const { meta, tensors } = archive(bytes);
  const config = settings("training settings", meta.config, DEFAULTS);
  const sampling = settings("sampling settings", meta.sampling, {
    steps: 1, solver: "", schedule: null as string | null, sigma_start: null as number | null, guidance: 1, churn: 0,
  });
  // Files of earlier versions name the default solver after its first half.
  if (sampling.solver === "adams-bashforth") sampling.solver = "adams";
  const dim = tensors.get("standardizer.mean")?.shape[0] ?? 0;
  if (dim !== 2) {
    throw new FileError(
      `This model has ${dim} column${dim === 1 ? "" : "s"}; the page shows models of two columns. ` +
        "Fit a model on two of them to see it here.",
    );
  }
  const known =
    config.preconditioning in PRECONDITIONINGS && SCHEDULES.includes(config.schedule) && sampling.solver in SOLVERS &&
    [config.width, config.hidden_layers].every((n) => Number.isInteger(n) && n >= 1) &&
    [config.edges, config.waves].every((n) => Number.isInteger(n) && n >= 0) &&
    0 < config.sigma_min && config.sigma_min < config.sigma_max;
  if (!known) throw new FileError("This model has settings that the page does not know; it may be of a newer version.");
  const classes = Array.isArray(meta.classes) ? (meta.classes as ClassName[]) : null;
  const count = classes ? classes.length : 1, inputs = 10 + config.edges + 2 * config.waves + (classes ? 16 : 0);
  const weights = inputs * config.width + (config.hidden_layers - 1) * config.width ** 2;
  if (weights > MOST_WEIGHTS) {
    throw new FileError(`This network has about ${weights.toLocaleString("en")} weights; the page opens at most 4,000,000.`);
  }
  const take = (name: string, shape: (number | null)[]): Float64Array => {
    const tensor = tensors.get(name);
    const fits = tensor?.shape.length === shape.length && shape.every((n, i) => n === null || n === tensor.shape[i]);
    if (!tensor || !fits) throw new FileError(`${ALTERED}the numbers "${name}" are missing or have another shape.`);
    const numbers = numbersOf(tensor);
    if (!numbers.every(Number.isFinite)) throw new FileError(`${ALTERED}"${name}" has numbers that are not finite.`);
    return numbers;
  };
  const network = new Network(architecture(config, count));
  for (const { name, shape } of network.tensors) {
    // Files of earlier versions have sharp edges.
    if (name === "edge_softness" && !tensors.has(`network.${name}`)) network.set(name, Array<number>(config.edges).fill(0));
    else network.set(name, take(`network.${name}`, shape));
  }
  network.set("wave_direction", take("network.wave_direction", [config.waves, 2]));
  const means = take("moments.means", [count, 2]), spread = take("moments.covariances", [count, 2, 2]);
  const parts = Array.from({ length: count }, (_, c): Moments => ({
    mean: [means[2 * c]!, means[2 * c + 1]!],
    covariance: [spread[4 * c]!, spread[4 * c + 1]!, spread[4 * c + 3]!],
  }));
  const frequencies = take("moments.frequencies", [count]);
  const mean = take("standardizer.mean", [2]), scale = take("standardizer.scale", [2]);
  if (!(scale[0]! > 0 && scale[1]! > 0 && frequencies.every((f) => f > 0))) {
    throw new FileError(ALTERED + "its scale and frequencies must be above 0.");
  }
  const held = take("history.held_out", [null, 2]);
  return {
    network,
    config,
    sampling,
    standardizer: new Standardizer([mean[0]!, mean[1]!], [scale[0]!, scale[1]!]),
    prior: new Gaussians(parts, Int32Array.from(parts.keys()), frequencies),
    columns: Array.isArray(meta.columns) ? meta.columns.map(String) : null,
    labelColumn: typeof meta.label_column === "string" ? meta.label_column : null,
    classes,
    losses: [...take("history.loss", [null])],
    heldOut: Array.from({ length: held.length / 2 }, (_, i) => [held[2 * i]!, held[2 * i + 1]!]),
    seed: Number(meta.seed),
    numPoints: Number(meta.num_points),
  };
}

// Writing --------------------------------------------------------------------------------------------

const tensor = (values: ArrayLike<number>, shape: number[], single = false): Tensor => {
  const numbers = single ? Float32Array.from(values) : Float64Array.from(values);
  return { dtype: single ? "float32" : "float64", shape, bytes: new Uint8Array(numbers.buffer) };
};

/** The bytes of a model file that `toydiffusion.load` opens. */
export function saveModel(model: Model, version: string): Uint8Array {
  const { network, prior, standardizer } = model, count = prior.parts.length;
  const tensors = new Map<string, Tensor>();
  for (const { name, shape } of network.tensors) tensors.set(`network.${name}`, tensor(network.get(name), shape, true));
  tensors.set("network.wave_direction", tensor(network.get("wave_direction"), [model.config.waves, 2], true));
  tensors.set("history.loss", tensor(model.losses, [model.losses.length], true));
  tensors.set("history.held_out", tensor(model.heldOut.flat(), [model.heldOut.length, 2]));
  tensors.set("standardizer.mean", tensor(standardizer.mean, [2]));
  tensors.set("standardizer.scale", tensor(standardizer.scale, [2]));
  tensors.set("moments.means", tensor(prior.parts.flatMap((p) => p.mean), [count, 2]));
  const square = prior.parts.flatMap(({ covariance: [a, b, d] }) => [a, b, b, d]);
  tensors.set("moments.covariances", tensor(square, [count, 2, 2]));
  tensors.set("moments.frequencies", tensor(prior.frequencies, [count]));
  const text = JSON.stringify({
    config: model.config,
    sampling: model.sampling,
    columns: model.columns,
    label_column: model.labelColumn,
    classes: model.classes,
    seed: model.seed,
    num_points: model.numPoints,
    versions: [["toydiffusion lab", version]],
    source_digest: null,
  });
  const stamp = JSON.stringify({ kind: "model", format: FORMAT, digest: digestOf(text, tensors), metadata: text });
  const header: Json = { __metadata__: { toydiffusion: stamp } };
  // Wider numbers first, so that all are aligned.
  const order = [...tensors].sort(([, a], [, b]) => b.dtype.localeCompare(a.dtype));
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of order) {
    header[name] = { dtype: dtype === "float64" ? "F64" : "F32", shape, data_offsets: [end, end + bytes.length] };
    end += bytes.length;
  }
  let words = utf8ToBytes(JSON.stringify(header));
  const gap = (8 - (words.length % 8)) % 8;
  words = utf8ToBytes(new TextDecoder().decode(words) + " ".repeat(gap));
  const out = new Uint8Array(8 + words.length + end);
  new DataView(out.buffer).setBigUint64(0, BigInt(words.length), true);
  out.set(words, 8);
  let at = 8 + words.length;
  for (const [, { bytes }] of order) {
    out.set(bytes, at);
    at += bytes.length;
  }
  return out;
}
