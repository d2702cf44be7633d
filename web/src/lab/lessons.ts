/** Short lessons: a prediction before pressing play, and a number that settles it. */

import type { SampleConfig } from "../engine/solvers";
import { DEFAULTS } from "../engine/training";
import { DEFAULT_SETTINGS, type Fault, type SampleRequest, type Settings } from "../worker/protocol";
import type { Side } from "./side.svelte";
import { nats, number } from "./words";

/** What a lesson may move. */
export interface Lab {
  side: Side;
  show(mode: "forward" | "reverse", time: number): void;
  play(): Promise<void>;
}

export interface Lesson {
  id: string;
  part: "Lessons" | "Break it";
  title: string;
  text: string;
  question: string;
  choices: string[];
  right: number;
  /** What is set before the prediction: the run, and where time stands. */
  scene: Settings;
  time: ["forward" | "reverse", number];
  /** Whether the number needs a trained network. */
  trained: boolean;
  /** Return the number that settles the question, and what it means. */
  settle(lab: Lab): Promise<{ number: string; meaning: string }>;
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

const settings = (change: Partial<Settings> = {}): Settings => ({ ...DEFAULT_SETTINGS, ...change });
const sampling = (change: Partial<SampleConfig>): SampleConfig => ({ ...DEFAULT_SETTINGS.sampling, ...change });
const law = (name: string, count = 1000): Settings["data"] => ({ kind: "law", law: name, count, seed: 0 });

/** Half as many steps as the default, so that nobody waits long. */
const rings = settings({ data: law("concentric_squares"), config: { ...DEFAULTS, steps: 2500 } });

/** Set the scene of a lesson. A run of the same settings that is there already goes on. */
export async function begin({ scene, time }: Lesson, { side, show }: Lab): Promise<void> {
  const run = ({ data, config, seed }: Settings): string => JSON.stringify([data, config, seed]);
  side.look({ map: "none", field: false, source: "learned", fault: "none" });
  if (side.start && !side.opened && run(side.settings) === run(scene)) await side.resample(scene);
  else await side.setup(scene);
  show(...time);
}

/** The end points of samples, in x. */
async function ends({ side }: Lab, change: Partial<SampleRequest> & { plan?: SampleRequest["plan"] }): Promise<Float32Array> {
  const { sampling: plan, sampleSeed: seed, label } = side.settings;
  const samples = await side.call("sample", { plan, count: 4000, seed, label, source: "learned", fault: "none", ...change });
  return samples.stages[samples.stages.length - 1]!;
}

/** Total variation from the uniform square, over 20 x 20 cells and all that lies outside. */
function totalVariation(points: Float32Array): number {
  const cells = new Float64Array(401), n = points.length / 2;
  for (let i = 0; i < n; i++) {
    const column = Math.floor(10 * (points[2 * i]! + 1)), row = Math.floor(10 * (points[2 * i + 1]! + 1));
    const inside = column >= 0 && column < 20 && row >= 0 && row < 20;
    cells[inside ? 20 * row + column : 400]! += 1 / n;
  }
  return cells.reduce((sum, share, i) => sum + Math.abs(share - (i < 400 ? 1 / 400 : 0)), 0) / 2;
}

/** The total variation of 10,000 samples from the square, by each of these ways to sample. */
async function distances(lab: Lab, ways: Record<string, Partial<SampleConfig>>): Promise<string> {
  const found: string[] = [];
  for (const [name, way] of Object.entries(ways)) {
    const points = await ends(lab, { count: 10_000, plan: sampling(way) });
    found.push(`${name}: ${totalVariation(points).toFixed(2)}`);
  }
  return found.join(", ");
}

function spread(points: ArrayLike<number>): number {
  const n = points.length;
  let mean = 0, square = 0;
  for (let i = 0; i < n; i++) mean += points[i]! / n;
  for (let i = 0; i < n; i++) square += (points[i]! - mean) ** 2 / n;
  return Math.sqrt(square);
}

async function broken(lab: Lab, fault: Fault): Promise<void> {
  lab.show("reverse", 0);
  lab.side.look({ fault });
  await lab.side.sample();
  await lab.play();
}

export const LESSONS: Lesson[] = [
  {
    id: "forward",
    part: "Lessons",
    title: "The forward process",
    text: "Noise is added to every point: z + σ ε, with ε standard normal. The points are first scaled to standard deviation 1. Move the slider both ways. At the end only the mean and the spread of the data are left.",
    question: "At σ = 1, what is the standard deviation of the noisy points?",
    choices: ["1", "about 1.41", "2"],
    right: 1,
    scene: settings(),
    time: ["forward", 0],
    trained: false,
    async settle(lab) {
      const { points, mean, scale } = lab.side.start!, { noise } = lab.side;
      const noisy = points.map((v, i) => (v - mean[i & 1]!) / scale[i & 1]! + noise[i]!);
      await lab.play();
      return {
        number: number(spread(noisy)),
        meaning: "Variances add: 1 + 1 = 2, and √2 = 1.41. So sampling must start from the data's spread plus the noise.",
      };
    },
  },
  {
    id: "learns",
    part: "Lessons",
    title: "What the network learns",
    text: "The network sees a noisy point and says where the clean point is: the mean of all clean points that could hide behind it. What it takes away is the noise that it predicts. Hover over the plane to see the cloud of clean points.",
    question: "The noise has standard deviation 1. What standard deviation does the predicted noise have at σ = 0.3?",
    choices: ["exactly 1", "below 1", "above 1"],
    right: 1,
    scene: settings(),
    time: ["reverse", 1],
    trained: true,
    async settle(lab) {
      await lab.side.judge();
      const { sigma, predicted } = lab.side.judgement!;
      const at = sigma.reduce((best, s, i) => (Math.abs(Math.log(s / 0.3)) < Math.abs(Math.log(sigma[best]! / 0.3)) ? i : best), 0);
      return {
        number: number(predicted[at]!),
        meaning: "A mean varies less than what it is the mean of. Only far above the spread of the data is the noise plain to see. A point inside the square says nothing about a small noise. The curve for this data stands on the right.",
      };
    },
  },
  {
    id: "steps",
    part: "Lessons",
    title: "1, 3, 5, 10, 100 steps",
    text: "Each step asks the network once. The default solver follows the departure from a Gaussian, so it needs few steps. Euler's method needs many.",
    question: "How many steps of the default solver come within 0.02 of 100 steps of Euler's method, in total variation from the square?",
    choices: ["3", "10", "all 100"],
    right: 0,
    scene: settings({ sampling: sampling({ solver: "euler", steps: 10 }) }),
    time: ["reverse", 0],
    trained: true,
    async settle(lab) {
      const ways = (solver: string): Record<string, Partial<SampleConfig>> =>
        Object.fromEntries([1, 3, 5, 10, 100].map((steps) => [steps, { solver, steps }]));
      const found = `Euler ${await distances(lab, ways("euler"))}; default ${await distances(lab, ways("adams"))}`;
      await lab.play();
      return { number: found, meaning: "The total variation from the square, by the number of steps. Even 10,000 points of the square itself have 0.08. A better solver is worth more than more steps." };
    },
  },
  {
    id: "schedules",
    part: "Lessons",
    title: "Square root, linear, exponential",
    text: "A schedule says where the steps go. The square root and the line put nearly all of them at high noise. The exponential puts as many between 0.01 and 0.1 as between 0.1 and 1.",
    question: "Euler's method with 20 steps: which spacing comes nearest to the square?",
    choices: ["square root", "linear", "exponential"],
    right: 2,
    scene: settings({ sampling: sampling({ solver: "euler", steps: 20, schedule: "sqrt" }) }),
    time: ["reverse", 0],
    trained: true,
    async settle(lab) {
      const way = (schedule: string): Partial<SampleConfig> => ({ solver: "euler", steps: 20, schedule });
      const found = await distances(lab, { sqrt: way("sqrt"), linear: way("linear"), exp: way("exp") });
      await lab.side.resample({ sampling: sampling(way("exp")) });
      await lab.play();
      return { number: found, meaning: "The total variation from the square. Edges are drawn at low noise, so that is where steps are worth most." };
    },
  },
  {
    id: "classes",
    part: "Lessons",
    title: "Classes, and the spaces between them",
    text: "Each of five rings is a class. The network is told the class of a point, and draws each ring from few points. It cannot know how far a ring reaches beyond its outermost point.",
    question: "How much of the truth's mass do the samples put within 0.01 of the four inner borders?",
    choices: ["less than 90 %", "about 100 %", "more than 110 %"],
    right: 0,
    scene: rings,
    time: ["reverse", 0],
    trained: true,
    async settle(lab) {
      const points = await ends(lab, { count: 20_000 });
      let near = 0;
      for (let i = 0; i < points.length; i += 2) {
        const r = 5 * Math.max(Math.abs(points[i]!), Math.abs(points[i + 1]!)), border = Math.round(r);
        if (border >= 1 && border <= 4 && Math.abs(r - border) < 0.05) near++;
      }
      await lab.play();
      // The four bands of width 0.02 cover 0.08 of the square.
      return { number: percent(near / (points.length / 2) / 0.08), meaning: "The model takes security precautions: it leaves spaces between the classes. More training points make them narrower." };
    },
  },
  {
    id: "probable",
    part: "Lessons",
    title: "How probable is a point?",
    text: "The flow carries a point up to pure noise, whose density is known, and counts how much it stretches space on the way. So one model gives the log-density of any point, with an error bar.",
    question: "The square has area 4. What is the log-density at (0.3, 0.3)?",
    choices: ["−0.25", "−1.39", "−4"],
    right: 1,
    scene: settings(),
    time: ["reverse", 1],
    trained: true,
    async settle(lab) {
      lab.side.look({ map: "learned" });
      await lab.side.inspect([0.3, 0.3]);
      const { learned, error, exact } = lab.side.inspection!;
      return { number: `${nats(learned)} ± ${number(error, 1)} learned, ${nats(exact!)} exact`, meaning: "log(1/4) = −1.386. The bar is that of the computation; the network's own error comes on top. Click other points, inside and outside." };
    },
  },
  {
    id: "backwards",
    part: "Break it",
    title: "Feed time backwards",
    text: "In the original code the sampler tells the network time 1 − t. So at the noisiest step it says that there is hardly any noise, and at the last step that there is nothing else.",
    question: "What becomes of the square?",
    choices: ["a blurred square", "a heap in the middle", "a square all the same"],
    right: 1,
    scene: settings(),
    time: ["reverse", 0],
    trained: true,
    async settle(lab) {
      await broken(lab, "backwards");
      const wrong = spread(await ends(lab, { fault: "backwards" })), right = spread(await ends(lab, {}));
      return { number: `standard deviation ${number(wrong)}; the right way round ${number(right)}`, meaning: "At the last step the network is told that noise is all there is, so it answers with the mean of the data. Nothing crashes and nothing warns. Only a comparison with the truth shows it." };
    },
  },
  {
    id: "start",
    part: "Break it",
    title: "Start from the wrong spread",
    text: "Sampling starts at σ = 1 from N(0, 1). But noised data has the variance of the data as well: 1 + 1 here. The start is too narrow.",
    question: "The true standard deviation of x is 0.577. What do these samples have?",
    choices: ["less", "the same", "more"],
    right: 0,
    scene: settings({ sampling: sampling({ sigma_start: 1 }) }),
    time: ["reverse", 0],
    trained: true,
    async settle(lab) {
      await broken(lab, "start");
      const wrong = spread(await ends(lab, { fault: "start" })), right = spread(await ends(lab, {}));
      return { number: `${number(wrong)}; with the right start ${number(right)}`, meaning: "The corners stay empty. The right start has the covariance of the data plus σ²." };
    },
  },
  {
    id: "one-noise",
    part: "Break it",
    title: "One noise for all points",
    text: "The stochastic sampler adds fresh noise at every step. In the original code all points get the same noise.",
    question: "What happens to the mean of the samples?",
    choices: ["it stays near 0", "it is carried away from 0"],
    right: 1,
    scene: settings({ sampling: sampling({ solver: "euler-maruyama", steps: 100 }) }),
    time: ["reverse", 0],
    trained: true,
    async settle(lab) {
      await broken(lab, "shared-noise");
      const mean = (points: Float32Array): number => {
        let [x, y] = [0, 0];
        for (let i = 0; i < points.length; i += 2) [x, y] = [x + points[i]!, y + points[i + 1]!];
        return Math.hypot(x, y) / (points.length / 2);
      };
      const wrong = mean(await ends(lab, { fault: "shared-noise" })), right = mean(await ends(lab, {}));
      return { number: `${number(wrong)} from 0; with noise of their own ${number(right)}`, meaning: "All points are pushed the same way at once, so they end in the same corner. One picture looks strange, and the average over many hides it." };
    },
  },
  {
    id: "no-square",
    part: "Break it",
    title: "Forget the square in the bound",
    text: "The lower bound on log p adds up squared errors |z − D|². The original code forgets the square, and two of the three terms.",
    question: "The exact log-density at (0.3, 0.3) is −1.386. What does the wrong formula say?",
    choices: ["a little less than that", "a little more than that", "something else altogether"],
    right: 2,
    scene: settings(),
    time: ["reverse", 1],
    trained: true,
    async settle(lab) {
      await lab.side.inspect([0.3, 0.3]);
      const { wrongElbo, elbo, exact } = lab.side.inspection!;
      return { number: `${nats(wrongElbo)}; right ${nats(elbo.value)}, exact ${nats(exact!)}`, meaning: "It still falls for points far away, so it looks sensible. But it bounds nothing." };
    },
  },
  {
    id: "zero",
    part: "Break it",
    title: "Let σ reach 0",
    text: "The square-root and linear schedules start at σ = 0. The signal-to-noise ratio is 1/σ². Look at its curve on the right.",
    question: "What is the signal-to-noise ratio at σ = 0?",
    choices: ["0", "1", "infinite"],
    right: 2,
    scene: settings({ config: { ...DEFAULTS, schedule: "sqrt" } }),
    time: ["forward", 0],
    trained: false,
    async settle(lab) {
      const { sigmaMin } = lab.side.start!;
      return { number: `1/0² = ${number(1 / 0)}; at σ = ${sigmaMin}: ${(1 / sigmaMin ** 2).toLocaleString("en")}`, meaning: "A sum over levels then holds infinity or nothing at all. Here every schedule stops at a least level above 0." };
    },
  },
  {
    id: "seeds",
    part: "Break it",
    title: "One seed for nine pictures",
    text: "The original shows nine pictures, each with the seed row + column. That is meant to show nine different runs.",
    question: "How many different pictures are there?",
    choices: ["nine", "five", "one"],
    right: 1,
    scene: settings(),
    time: ["reverse", 0],
    trained: true,
    async settle(lab) {
      const seen = new Set<number>();
      for (let row = 0; row < 3; row++) {
        for (let column = 0; column < 3; column++) seen.add((await ends(lab, { seed: row + column, count: 20 }))[0]!);
      }
      await lab.play();
      return { number: String(seen.size), meaning: "row + column takes only the values 0 to 4. The same seed always gives the same picture: here that is a promise." };
    },
  },
  {
    id: "memory",
    part: "Break it",
    title: "Fifty training points",
    text: "The network sees fifty points, 6,000 times over. The best it can do on them is to learn them by heart. Compare with the denoiser of the training points themselves, under Sampling.",
    question: "How does the loss at its own points compare with the loss at fresh points?",
    choices: ["about the same", "far lower at its own points"],
    right: 1,
    scene: settings({ data: law("square", 50), config: { ...DEFAULTS, steps: 6000 } }),
    time: ["reverse", 1],
    trained: true,
    async settle(lab) {
      const { train, fresh, leastLoss } = lab.side.judgement!;
      return { number: `${number(train)} at its own, ${number(fresh)} at fresh points (least possible ${number(leastLoss!)})`, meaning: "A loss below the least possible one is a sign of memory, not of skill. Held-out points show it when the law is unknown." };
    },
  },
  {
    id: "guidance",
    part: "Break it",
    title: "Guidance 10",
    text: "Guidance exaggerates what sets a class apart. At 1 it is off.",
    question: "How many samples stay in their own ring at guidance 10?",
    choices: ["all, more sharply", "about nine in ten", "far fewer"],
    right: 2,
    scene: rings,
    time: ["reverse", 1],
    trained: true,
    async settle(lab) {
      const share = async (guidance: number): Promise<number> => {
        const plan = sampling({ guidance });
        const { stages, labels } = await lab.side.call("sample", { plan, count: 4000, seed: 1, label: null, source: "learned", fault: "none" });
        const points = stages[stages.length - 1]!;
        let own = 0;
        labels.forEach((c, i) => {
          const r = 5 * Math.max(Math.abs(points[2 * i]!), Math.abs(points[2 * i + 1]!));
          if (r >= c && r < c + 1) own++;
        });
        return own / labels.length;
      };
      const [one, ten] = [await share(1), await share(10)];
      await lab.side.resample({ sampling: sampling({ guidance: 10 }) });
      return { number: `${percent(ten)}; without guidance ${percent(one)}`, meaning: "The guided denoiser belongs to no law at all. A little may help the eye; much of it leaves the data." };
    },
  },
];
