/** The engine in its own thread: short slices of work, so that it always answers soon. */

import { kernelBytes } from "virtual:kernel";
import { compileKernels } from "../engine/kernel";
import { DEFAULT_SETTINGS, type Calls, type MapPart, type News } from "./protocol";
import { Session } from "./session";

compileKernels(kernelBytes());

/** Milliseconds of training between two looks at the messages. */
const SLICE = 12;

let session: Session | null = null;
let running = false;
let map: Generator<MapPart | null> | null = null;
let told = 0;

const tell = (news: News): void => self.postMessage(news);

function current(): Session {
  if (!session) throw new Error("There is no run yet.");
  return session;
}

function tellProgress(): void {
  if (!session) return;
  const { step, losses, done, heldOut } = session.progress;
  tell({ news: "training", step, losses: losses.slice(told), done, running, heldOut });
  told = losses.length;
}

const answers: { [Name in keyof Calls]: (argument: Calls[Name][0]) => Calls[Name][1] } = {
  setup(settings) {
    const next = Session.start(settings);
    [session, running, map, told] = [next, false, null, 0];
    return next.start;
  },
  open(bytes) {
    const next = Session.open(bytes, { ...DEFAULT_SETTINGS, data: { kind: "points", points: [], labels: null, names: null } });
    [session, running, map, told] = [next, false, null, next.progress.losses.length];
    return { ...next.start, settings: next.settings };
  },
  run() {
    running = !current().progress.done;
    wake();
    return null;
  },
  pause() {
    running = false;
    tellProgress();
    return null;
  },
  step() {
    running = false;
    const terms = current().trainOnce();
    tellProgress();
    return terms;
  },
  sample: (request) => current().sample(request),
  map(request) {
    map = current().map(request);
    wake();
    return null;
  },
  field: (request) => current().field(request),
  inspect: ({ x, label, seed }) => current().inspect(x, label, seed),
  believe: ({ x, sigma, label }) => current().believe(x, sigma, label),
  judge: () => current().judge(),
  save: () => current().save(),
};

// Work that goes on between the messages -------------------------------------------------------------

const channel = new MessageChannel();
let awake = false;
let shown = 0;

function wake(): void {
  if (awake || !(running || map)) return;
  awake = true;
  channel.port2.postMessage(null);
}

channel.port1.onmessage = () => {
  awake = false;
  try {
    if (running) {
      current().train(SLICE);
      if (current().progress.done) running = false;
      if (!running || performance.now() - shown > 50) {
        shown = performance.now();
        tellProgress();
      }
    }
    if (map) {
      const stop = performance.now() + SLICE;
      while (map && performance.now() < stop) {
        const { done, value } = map.next();
        if (done) map = null;
        else if (value) tell({ news: "map", part: value });
      }
    }
  } catch (error) {
    running = false;
    map = null;
    tellProgress();
    tell({ news: "trouble", message: error instanceof Error ? error.message : String(error) });
  }
  wake();
};

self.onmessage = ({ data }: MessageEvent<{ id: number; call: keyof Calls; argument: never }>) => {
  const { id, call, argument } = data;
  try {
    self.postMessage({ id, result: answers[call](argument) });
  } catch (error) {
    self.postMessage({ id, problem: error instanceof Error ? error.message : String(error) });
  }
};
