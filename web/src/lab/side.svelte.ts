/** One run as the page sees it: its settings, its worker, and the latest of everything that the worker told. */

import { RowNoise } from "../engine/random";
import type { Terms } from "../engine/training";
import EngineWorker from "../worker/engine.worker.ts?worker&inline";
import type {
  Belief, Calls, Fault, Inspection, Judgement, MapKind, MapPart, News, Samples, Settings, Source, Start, Area,
} from "../worker/protocol";

/** What the plane shows. */
export interface View {
  map: "none" | MapKind;
  field: boolean;
  source: Source;
  fault: Fault;
}

export class Side {
  settings = $state.raw<Settings>(null!);
  start = $state.raw<Start | null>(null);
  step = $state(0);
  losses = $state.raw<number[]>([]);
  heldOut = $state.raw<[number, number][]>([]);
  running = $state(false);
  done = $state(false);
  /** Points that are being drawn, before a run of them begins. */
  draft = $state.raw<{ points: Float32Array; labels: Int32Array } | null>(null);
  samples = $state.raw<Samples | null>(null);
  /** The training step and the class that they are of. */
  sampled = $state("");
  /** Milliseconds that the latest samples took, with the way to the worker and back. */
  sampleTime = $state(0);
  map = $state.raw<MapPart | null>(null);
  mapDone = $state(true);
  field = $state.raw<Float32Array | null>(null);
  inspection = $state.raw<Inspection | null>(null);
  belief = $state.raw<Belief | null>(null);
  judgement = $state.raw<Judgement | null>(null);
  terms = $state.raw<Terms | null>(null);
  opened = $state("");
  trouble = $state("");
  view = $state.raw<View>({ map: "none", field: false, source: "learned", fault: "none" });
  /** Standard normal noise for the forward process, one pair for each point. */
  noise: Float64Array = new Float64Array(0);

  private readonly worker = new EngineWorker();
  private readonly waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  private next = 0;
  private sampling = false;
  private stale = false;
  private sampledAt = 0;
  private judgedAt = 0;

  constructor(settings: Settings) {
    this.settings = settings;
    this.worker.onmessage = ({ data }) => {
      if ("news" in data) this.hear(data as News);
      else {
        const { id, result, problem } = data as { id: number; result: never; problem?: string };
        const waiting = this.waiting.get(id);
        this.waiting.delete(id);
        if (problem === undefined) waiting?.resolve(result);
        else waiting?.reject(new Error(problem));
      }
    };
    this.worker.onerror = (event) => (this.trouble = `The engine stopped: ${event.message || "no reason given"}. Reload the page.`);
  }

  close(): void {
    this.worker.terminate();
  }

  call<Name extends keyof Calls>(call: Name, argument: Calls[Name][0]): Promise<Calls[Name][1]> {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, call, argument: $state.snapshot(argument) });
    });
  }

  /** The same, but trouble goes to the page. */
  async ask<Name extends keyof Calls>(call: Name, argument: Calls[Name][0]): Promise<Calls[Name][1] | undefined> {
    try {
      return await this.call(call, argument);
    } catch (error) {
      this.trouble = error instanceof Error ? error.message : String(error);
      return undefined;
    }
  }

  /** Begin a run of these settings. Nothing is trained yet. */
  async setup(settings: Settings): Promise<void> {
    const before = this.settings;
    this.settings = settings;
    this.trouble = "";
    const start = await this.ask("setup", settings);
    if (start) {
      this.opened = "";
      await this.begun(start);
    } else if (this.start) {
      // The run that was there goes on.
      this.settings = before;
      this.draft = null;
    }
  }

  async open(bytes: Uint8Array, name: string): Promise<boolean> {
    this.trouble = "";
    const found = await this.ask("open", bytes);
    if (!found) return false;
    this.settings = found.settings;
    this.opened = name;
    await this.begun(found);
    return true;
  }

  private async begun(start: Start): Promise<void> {
    this.start = start;
    this.step = start.step;
    this.losses = start.losses;
    this.heldOut = [];
    this.done = start.step >= start.steps;
    this.running = false;
    this.map = this.field = this.inspection = this.belief = this.judgement = this.terms = this.draft = null;
    const n = start.points.length / 2;
    this.noise = new RowNoise(0, "forward").normal(0, Math.max(n, 1), 2);
    await this.refresh();
    this.ended();
  }

  /** Everything that depends on the weights, again. */
  async refresh(): Promise<void> {
    await this.sample();
    await Promise.all([this.judge(), this.drawMap(), this.drawField()]);
  }

  private hear(news: News): void {
    if (news.news === "trouble") this.trouble = news.message;
    else if (news.news === "map") {
      this.map = news.part;
      this.mapDone = news.part.done;
    } else {
      this.step = news.step;
      if (news.losses.length) this.losses = [...this.losses, ...news.losses];
      this.heldOut = news.heldOut;
      const ended = news.done && !this.done;
      this.done = news.done;
      this.running = news.running;
      const now = performance.now();
      if (ended || !news.running) {
        void this.refresh().then(() => this.ended());
      } else {
        // Pictures take a tenth of the time at most; the rest is for training.
        if (now - this.sampledAt > Math.max(300, 10 * this.sampleTime)) void this.sample();
        if (now - this.judgedAt > 1200) void this.judge();
      }
    }
  }

  async run(): Promise<void> {
    if (this.done) await this.rewind();
    if (this.done) return;
    this.running = true;
    // A map of the weights before would be wrong beside the new samples. It comes again at the end.
    this.terms = this.map = null;
    await this.ask("run", null);
  }

  /** Train to the end. Raises an error if somebody stops it on the way. */
  async finish(): Promise<void> {
    if (this.done) return;
    const over = new Promise<void>((resolve) => this.ending.push(resolve));
    await this.run();
    await over;
    if (!this.done) throw new Error("The training was stopped on the way. Press Play to go on.");
  }

  /** Tell those who wait for the end of a training, or of its pause. */
  private ended(): void {
    for (const resolve of this.ending.splice(0)) resolve();
  }
  private ending: (() => void)[] = [];

  async pause(): Promise<void> {
    this.running = false;
    await this.ask("pause", null);
  }

  async stepOnce(): Promise<void> {
    this.running = false;
    const terms = await this.ask("step", null);
    if (terms) this.terms = terms;
  }

  /** Back to the first step of the same run. */
  async rewind(): Promise<void> {
    if (!this.opened) await this.setup(this.settings);
  }

  async sample(): Promise<void> {
    if (!this.start) return;
    if (this.sampling) {
      // What is on its way is of older weights or settings.
      this.stale = true;
      return;
    }
    this.sampling = true;
    this.sampledAt = performance.now();
    const { sampling: plan, count, sampleSeed: seed, label } = this.settings, { step } = this;
    const { source, fault } = this.view;
    const samples = await this.ask("sample", { plan, count, seed, label, source, fault });
    this.sampling = false;
    this.sampleTime = performance.now() - this.sampledAt;
    if (samples) {
      this.samples = samples;
      this.sampled = `${step} ${label ?? "all"}`;
    }
    if (this.stale) {
      this.stale = false;
      await this.sample();
    }
  }

  async judge(): Promise<void> {
    this.judgedAt = performance.now();
    const found = await this.ask("judge", null);
    if (found) this.judgement = found;
  }

  private wanted = { sigma: 0, window: { left: -2, bottom: -2, size: 4 } as Area };

  /** Where the map and the arrows are asked for, and at which level. */
  aim(window: Area, sigma: number): void {
    const { window: old, sigma: before } = this.wanted;
    if (old.left === window.left && old.bottom === window.bottom && old.size === window.size && before === sigma) return;
    this.wanted = { window, sigma };
    if (this.start && !this.running) {
      if (this.view.map === "exact") void this.drawMap();
      void this.drawField();
    }
  }

  async drawMap(): Promise<void> {
    const { map: kind } = this.view, { window, sigma } = this.wanted;
    this.map = null;
    if (kind === "none" || !this.start) return;
    this.mapDone = false;
    await this.ask("map", { kind, window, sigma, label: this.settings.label });
  }

  async drawField(): Promise<void> {
    if (!this.view.field || !this.start) {
      this.field = null;
      return;
    }
    const { window, sigma } = this.wanted;
    const level = Math.max(sigma, 0.05), { label } = this.settings;
    const field = await this.ask("field", { source: this.view.source, sigma: level, label, window, cells: 22 });
    if (field) this.field = field;
  }

  async inspect(x: [number, number]): Promise<void> {
    const found = await this.ask("inspect", { x, label: this.settings.label, seed: 0 });
    if (found) this.inspection = found;
  }

  async believe(x: [number, number], sigma: number): Promise<void> {
    const found = await this.ask("believe", { x, sigma: Math.max(sigma, 0.02), label: this.settings.label });
    if (found) this.belief = found;
  }

  /** Show something else of the same run. */
  look(change: Partial<View>): void {
    const before = this.view;
    this.view = { ...before, ...change };
    if (before.source !== this.view.source || before.fault !== this.view.fault) void this.sample();
    if (before.map !== this.view.map) void this.drawMap();
    if (before.field !== this.view.field || before.source !== this.view.source) void this.drawField();
  }

  /** Change how to sample, without touching the training. */
  async resample(change: Partial<Settings>): Promise<void> {
    const label = this.settings.label;
    this.settings = { ...this.settings, ...change };
    await this.sample();
    if (label !== this.settings.label) {
      await Promise.all([this.drawMap(), this.drawField()]);
      if (this.inspection) await this.inspect(this.inspection.x);
    }
  }
}
