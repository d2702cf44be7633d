/** The engine against the numbers that Python writes (`golden.py`). */

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { kernelBytes } from "virtual:kernel";
import { elbo } from "../src/engine/elbo";
import { logProb } from "../src/engine/flow";
import { compileKernels } from "../src/engine/kernel";
import { BUILT_IN, Gaussians } from "../src/engine/laws";
import { openModel, saveModel, type Model } from "../src/engine/modelfile";
import { PRECONDITIONINGS } from "../src/engine/network";
import { RowNoise } from "../src/engine/random";
import { SCHEDULES, Schedule } from "../src/engine/schedules";
import { SOLVERS, freshNoise, guided, levelsOf, trajectory } from "../src/engine/solvers";
import { DEFAULTS, Standardizer, Training, expectedLoss, leastLoss } from "../src/engine/training";

const here = (name: string): URL => new URL(name, import.meta.url);
const golden = JSON.parse(readFileSync(here("golden.json"), "utf8"));

/** The largest difference, relative to the size of the numbers, of two lists of the same length. */
function difference(got: ArrayLike<number>, want: number[]): number {
  expect(got.length).toBe(want.length);
  let most = 0;
  want.forEach((w, i) => {
    if (w === got[i]) return;
    most = Math.max(most, Math.abs(got[i]! - w) / Math.max(1, Math.abs(w)));
    if (Number.isNaN(got[i])) most = NaN;
  });
  return most;
}

compileKernels(kernelBytes());

test("every stream of random numbers is that of Python", () => {
  const want = golden.random, g = new RowNoise(7, "noise").generator(3, 2);
  expect([...g.uniforms(5)]).toEqual(want.uniform);
  expect([0, 0, 0].map(() => g.uniformFloat())).toEqual(want.uniform_float.map(Math.fround));
  expect(difference(g.normals(20), want.normal)).toBeLessThan(1e-15);
  // torch draws these with a faster cosine and logarithm, in float32.
  expect(difference(g.normalFloats(37), want.normal_float)).toBeLessThan(1e-6);
  expect(difference([...g.normalFloats(3), ...g.normals(3)], want.few)).toBeLessThan(1e-7);
  expect([...g.permutation(10)]).toEqual(want.permutation);
  const rows = new RowNoise(2 ** 40 + 3, "start").normal(1020, 1030, 2, 5);
  expect(difference(rows, want.rows)).toBeLessThan(1e-15);
});

describe.each(SCHEDULES)("schedule %s", (name) => {
  test("times, levels and slopes", () => {
    const want = golden.schedules[name], s = new Schedule(name, 0.01, 20);
    const u = Array.from({ length: 9 }, (_, i) => i / 8);
    const sigma = u.map((one) => s.at(one)), t = sigma.map((one) => s.formula.t(one));
    expect(difference(sigma, want.sigma)).toBeLessThan(1e-12);
    expect(difference(t, want.t)).toBeLessThan(1e-12);
    expect(difference(t.map((one) => s.formula.slope(one)), want.slope)).toBeLessThan(name === "lognormal" ? 1e-9 : 1e-12);
    expect(difference(t.map((one) => s.formula.alpha(one)), want.alpha)).toBeLessThan(1e-12);
    expect(difference(s.levels(6), want.levels)).toBeLessThan(1e-12);
    expect(difference(s.sample(11, new RowNoise(0, "levels").generator()), want.sample)).toBeLessThan(1e-12);
    expect(difference(sigma.map((one) => s.u(one)), u)).toBeLessThan(1e-9);
  });
});

describe.each(Object.keys(BUILT_IN))("law %s", (name) => {
  const want = golden.laws.laws[name], x = Float64Array.from(golden.laws.x);
  test.each(Object.keys(want.at))("densities, denoised points and classes at sigma %s", (text) => {
    const law = BUILT_IN[name]!(), sigma = Number(text), at = want.at[text];
    const label = Int32Array.from({ length: x.length / 2 }, (_, i) => i % law.numClasses);
    expect(difference(law.logProb(x, sigma, null), at.log_prob)).toBeLessThan(1e-9);
    expect(difference(law.logProb(x, sigma, label), at.log_prob_label)).toBeLessThan(1e-9);
    const clean = new Float64Array(x.length);
    law.denoise(x, sigma, null, clean);
    expect(difference(clean, at.denoise)).toBeLessThan(1e-9);
    const classes = [...label.keys()].flatMap((i) => [...law.at(x[2 * i]!, x[2 * i + 1]!, sigma).classes]);
    expect(difference(classes, at.classes)).toBeLessThan(1e-9);
    const other = law.standardized([0.1, -0.2], [0.7, 1.5]);
    expect(difference(other.logProb(x, sigma, null), at.standardized)).toBeLessThan(1e-9);
  });
  test("moments and samples", () => {
    const law = BUILT_IN[name]!(), [a, b, d] = law.moments.covariance;
    expect(difference(law.moments.mean, want.mean)).toBeLessThan(1e-12);
    expect(difference([a, b, b, d], want.covariance)).toBeLessThan(1e-12);
    const { points, labels } = law.rows(0, 40, 5, 0.3);
    expect(difference(points, want.points)).toBeLessThan(1e-14);
    expect([...labels]).toEqual(want.labels);
    expect(difference(law.rows(1000, 1040, 2 ** 33).points, want.clean)).toBeLessThan(1e-14);
  });
});

test("a file of an earlier version has sharp edges, and the solver of today", () => {
  const { network, sampling } = openModel(readFileSync(here("earlier.safetensors")));
  expect(sampling.solver).toBe("adams");
  const z = new RowNoise(0, "golden").normal(0, 20, 2), out = new Float64Array(40);
  const sigma = Float64Array.from({ length: 20 }, (_, i) => 10 ** (-2 + (3.3 * i) / 19));
  network.denoise(Float64Array.from(z), sigma, null, out);
  expect(difference(out, golden.earlier)).toBeLessThan(1e-5);
});

describe.each(Object.keys(golden.models))("model %s", (name) => {
  const want = golden.models[name];
  const labels = want.label ? Int32Array.from(want.label) : null;
  const open = (): Model => openModel(readFileSync(here(`${name}.safetensors`)));
  const sigma = Float64Array.from(want.sigma), noisy = Float64Array.from(want.noisy);
  const few = labels && labels.slice(0, 20);

  test("the network and its divergence", () => {
    const { network } = open(), out = new Float64Array(40), trace = new Float64Array(20);
    network.denoise(noisy, sigma, few, out);
    expect(difference(out, want.clean)).toBeLessThan(1e-5);
    network.denoiseWithTrace(noisy, sigma, few, out, trace);
    expect(difference(out, want.clean)).toBeLessThan(1e-5);
    expect(difference(trace, want.trace)).toBeLessThan(1e-5);
    network.denoise(noisy, sigma, null, out);
    expect(difference(out, want.unconditional)).toBeLessThan(1e-5);
  });

  test("any number of points, one level or many", () => {
    const { network } = open(), many = new Float64Array(2 * 77), one = new Float64Array(2);
    const z = many.map((_, i) => Math.sin(i)), label = labels && labels.slice(0, 77);
    network.denoise(z, new Float64Array(77).fill(0.3), label, many);
    const same = new Float64Array(2 * 77);
    network.denoise(z, 0.3, label, same);
    // One level goes into the bias, which rounds a little differently.
    expect(difference(same, [...many])).toBeLessThan(1e-6);
    network.denoise(z.slice(2 * 70, 2 * 71), 0.3, label && label.slice(70, 71), one);
    expect([...one]).toEqual([...same.slice(2 * 70, 2 * 71)]);
  });

  test("the loss and its gradient", () => {
    const { network, standardizer, prior } = open();
    const z = Float32Array.from(standardizer.z(Float64Array.from(want.x)).slice(0, 40));
    const eps = Float32Array.from(new RowNoise(0, "eps").normal(0, 20, 2));
    const dropped = few && few.map((c, i) => (i % 5 === 0 ? prior.numClasses : c));
    const loss = network.lossAndGradient(z, Float32Array.from(sigma), eps, dropped);
    expect(Math.abs(loss / want.loss - 1)).toBeLessThan(1e-5);
    const size = Math.max(...Object.values<number[]>(want.gradient).flat().map(Math.abs));
    for (const [key, gradient] of Object.entries<number[]>(want.gradient)) {
      const got = network.get(key, "gradient");
      expect(difference(got.map((v) => v / size), gradient.map((v) => v / size)), key).toBeLessThan(1e-5);
    }
  });

  test("training from the first weights, with the same seed", () => {
    const x = Float64Array.from(want.x), law = BUILT_IN[want.law]!();
    const training = new Training(Standardizer.fit(x).z(x), labels, law.numClasses, want.config, 4);
    for (const [key, values] of Object.entries<number[]>(want.initial)) {
      expect(difference(training.network.get(key), values), key).toBeLessThan(1e-5);
    }
    while (training.step < want.steps) {
      training.next();
      if (want.held_out.some(([step]: number[]) => step === training.step)) {
        training.measureHeldOut(training.network.averaged());
      }
    }
    expect(difference(training.losses, want.losses)).toBeLessThan(5e-4);
    expect(difference(training.heldOut.flat(), want.held_out.flat())).toBeLessThan(1e-5);
    // Adam divides by the size of each gradient, so rounding grows from step to step. One step from the same
    // state shows the rule itself.
    type Part = "weights" | "average" | "mean" | "square";
    const parts = Object.entries<Record<string, number[]>>(want.state) as [Part, Record<string, number[]>][];
    for (const [part, tensors] of parts) {
      for (const [key, values] of Object.entries(tensors)) {
        if (part === "average") expect(difference(training.network.get(key, part), values), key).toBeLessThan(5e-3);
        training.network.set(key, values, part);
      }
    }
    training.next();
    for (const [part] of parts) {
      for (const [key, values] of Object.entries<number[]>(want.next[part])) {
        expect(difference(training.network.get(key, part), values), `${part} ${key}`).toBeLessThan(1e-5);
      }
    }
  });

  test("the expected loss", () => {
    const { network, standardizer, config } = open(), z = standardizer.z(Float64Array.from(want.x));
    expect(Math.abs(expectedLoss(network, config, z, labels) / want.expected_loss - 1)).toBeLessThan(1e-5);
  });

  test.each(Object.keys(SOLVERS))("samples by %s", (solver) => {
    const { network, prior, standardizer, sampling, config } = open();
    const plan = { ...sampling, steps: 6, solver };
    const levels = levelsOf(plan, config.sigma_min, config.sigma_max);
    const start = prior.rows(0, 12, 3, levels[0]!), label = labels && start.labels;
    const stages = [...trajectory(network, start.points, levels, SOLVERS[solver]!, label, freshNoise(3), prior)];
    expect(stages.map((stage) => stage.sigma)).toEqual([...levels, 0]);
    expect(difference(standardizer.x(stages.at(-1)!.z), want.samples[solver])).toBeLessThan(1e-4);
  });

  test("log-densities within both error bars", () => {
    const { network, prior, standardizer, config } = open();
    const model = { network, prior, sigmaMin: config.sigma_min, sigmaMax: config.sigma_max };
    const z = standardizer.z(Float64Array.from(want.places));
    const close = (found: ReturnType<typeof logProb>, values: number[]): void => {
      values.forEach((value, i) => {
        const bar = found.error[i]! + want.error[i] + 1e-4;
        expect(Math.abs(found.value[i]! + standardizer.logDet - value)).toBeLessThan(bar);
        expect(found.error[i]!).toBeLessThan(0.1);
        expect(found.error[i]!).toBeGreaterThan(1e-7);
      });
    };
    const mixture = logProb(model, z, null);
    close(mixture, want.log_prob);
    if (!labels) return;
    close(logProb(model, z, labels.slice(0, 12)), want.log_prob_label);
    expect(difference(mixture.classes!, want.classes)).toBeLessThan(2e-3);
  });

  test("the bound within five standard errors, its closed terms exactly", () => {
    const { network, prior, standardizer, config } = open(), z = standardizer.z(Float64Array.from(want.places));
    for (let i = 0; i < 12; i++) {
      const label = labels ? labels[i]! : null;
      const found = elbo(network, prior, [z[2 * i]!, z[2 * i + 1]!], label, config.sigma_min, config.sigma_max, 1);
      const gap = found.value + standardizer.logDet - want.elbo[i];
      // Python's own standard error comes from four nets only.
      expect(Math.abs(gap)).toBeLessThan(5 * (found.stdError + 2 * want.elbo_std_error[i]));
      expect(Math.abs(found.prior - want.elbo_prior[i])).toBeLessThan(1e-9);
      expect(Math.abs(found.reconstruction + standardizer.logDet - want.elbo_reconstruction[i])).toBeLessThan(1e-9);
      expect(found.parts.reduce((a, b) => a + b, 0)).toBeCloseTo(found.diffusion, 9);
    }
  });

  test("a saved model is the same when it is opened again", () => {
    const model = open(), again = openModel(saveModel(model, "0"));
    for (const { name: key } of model.network.tensors) {
      expect([...again.network.get(key)]).toEqual([...model.network.get(key)]);
    }
    expect({ ...again, network: 0, prior: 0 }).toEqual({ ...model, network: 0, prior: 0 });
    expect(again.prior.parts).toEqual(model.prior.parts);
  });
});

test.each(["rings", "moons"])("guided samples of %s", (name) => {
  const { network, prior, standardizer, sampling, config } = openModel(readFileSync(here(`${name}.safetensors`)));
  const levels = levelsOf({ ...sampling, steps: 4 }, config.sigma_min, config.sigma_max);
  const label = new Int32Array(12).fill(1), start = prior.rows(0, 12, 3, levels[0]!, label);
  const method = SOLVERS.adams!;
  const stages = [...trajectory(guided(network, 2), start.points, levels, method, label, freshNoise(3), prior)];
  expect(difference(standardizer.x(stages.at(-1)!.z), golden.models[name].guided)).toBeLessThan(1e-4);
});

test.each(["square", "concentric_squares", "two_moons"])("the least possible loss of %s", (name) => {
  const law = BUILT_IN[name]!(), { mean, covariance } = law.moments;
  const z = law.standardized(mean, [Math.sqrt(covariance[0]), Math.sqrt(covariance[2])]);
  const rows = z.rows(0, 20_000, 5), labels = z.numClasses > 1 ? rows.labels : null;
  const plain = [1, 2, 3, 4, 5, 6].map((seed) => expectedLoss(z, DEFAULTS, rows.points, labels, seed));
  const average = plain.reduce((a, b) => a + b, 0) / plain.length;
  const error = Math.sqrt(plain.reduce((sum, v) => sum + (v - average) ** 2, 0) / 30);
  expect(Math.abs(leastLoss(z, DEFAULTS, 40_000) - average)).toBeLessThan(4 * error + 0.008);
});

test("each preconditioning has its coefficients at unit variance", () => {
  for (const s of [0.1, 1, 7]) {
    const { skip, out } = PRECONDITIONINGS.edm!;
    // The best linear denoiser, and the standard deviation of its error.
    expect(skip(s)).toBeCloseTo(1 / (1 + s * s), 12);
    expect(out(s)).toBeCloseTo(s / Math.sqrt(1 + s * s), 12);
  }
});

test("a file that was altered, cut off or is of something else is refused", () => {
  const good = readFileSync(here("square.safetensors")), altered = Uint8Array.from(good);
  altered[altered.length - 100]! ^= 1;
  expect(() => openModel(altered)).toThrow("do not match its digest");
  expect(() => openModel(good.subarray(0, good.length - 100))).toThrow("cut off");
  expect(() => openModel(new Uint8Array(50))).toThrow("not a model file");
});

test("a class without spread in one direction has samples all the same", () => {
  const { network } = openModel(readFileSync(here("square.safetensors")));
  const line = new Gaussians([{ mean: [0, 0], covariance: [1, 0, 0] }], Int32Array.of(0), Float64Array.of(1));
  const start = Float64Array.of(0.3, -0.4, 1, 2);
  const stages = [...trajectory(network, start, [2, 0.5, 0.1], SOLVERS.adams!, null, freshNoise(0), line)];
  for (const { z } of stages) expect(z.every(Number.isFinite)).toBe(true);
});

test("a loss that is not a number stops the training, and says where", () => {
  const z = Float64Array.of(1e30, 0, -1e30, 1, 0, 2);
  const training = new Training(z, null, 1, { ...DEFAULTS, steps: 50, width: 8, preconditioning: "data" }, 0);
  const run = (): void => {
    while (!training.done) training.next();
  };
  expect(run).toThrow(/the loss is (NaN|Infinity) at step \d+ of 50, learning rate 0\.\d+; try a lower learning rate/);
});
