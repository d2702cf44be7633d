/** The lines of `toydiffusion` that do the same as the page. */

import { DEFAULTS } from "../engine/training";
import { DEFAULT_SETTINGS, type Settings } from "../worker/protocol";

const LAW_CLASSES: Record<string, string> = {
  square: "Square()",
  concentric_squares: "ConcentricSquares()",
  checkerboard: "Checkerboard()",
  gaussian: "Gaussian([0.5, -0.5], [[1.0, 0.6], [0.6, 0.5]])",
  eight_gaussians: 'BUILT_IN["eight_gaussians"]()',
  two_moons: "TwoMoons()",
  circles: "Circles()",
  spiral: "Spiral()",
};

const value = (v: unknown): string =>
  v === null ? "None" : v === true ? "True" : v === false ? "False" : typeof v === "string" ? JSON.stringify(v) : String(v);

function changed(now: object, before: object): string {
  return Object.entries(now)
    .filter(([key, v]) => v !== before[key as keyof object])
    .map(([key, v]) => `${key}=${value(v)}`)
    .join(", ");
}

/** A script. It draws the points of the page to the last digit, and its samples to about 1e-4. */
export function asPython(settings: Settings, classes: boolean, opened: string): string {
  const { data, config, seed, sampling, count, sampleSeed, label } = settings;
  const lines = ["import toydiffusion as td", ""];
  if (opened) lines.push(`model = td.load(${value(opened)})`);
  else {
    if (data.kind === "law") {
      lines.push(`law = td.distributions.${LAW_CLASSES[data.law]}`);
      lines.push(`x, y = law.sample(${data.count}, seed=${data.seed})`);
    } else {
      const rows = Array.from({ length: data.points.length / 2 }, (_, i) => `[${data.points[2 * i]}, ${data.points[2 * i + 1]}]`);
      lines.push(`x = [${rows.join(", ")}]`);
      if (classes) {
        const own = data.names ? data.labels!.map((c) => data.names![c]!) : data.labels!;
        lines.push(`y = [${own.map(value).join(", ")}]`);
      }
    }
    lines.push(`config = td.TrainConfig(${changed(config, DEFAULTS)})`);
    lines.push(`model = td.Diffusion(config).fit(x${classes ? ", y" : ""}, seed=${seed})`);
  }
  const how = changed(sampling, DEFAULT_SETTINGS.sampling);
  lines.push(`samples = model.sample(${[count, ...(label === null ? [] : [`label=model.classes[${label}]`]), ...(how ? [how] : []), `seed=${sampleSeed}`].join(", ")})`);
  lines.push("densities = model.log_prob(samples)  # nats; densities.error holds the error bars", "");
  return lines.join("\n");
}
