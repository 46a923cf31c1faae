/** The page's client in a static folder: a worker that runs the model in the browser. */

import { Failure } from "../failure.js";
import { explainMatching } from "../model/matching.js";
import { LEAST_SCORE } from "../model/postprocess.js";

/** @import { Client, Engine, Look, Model } from "../types.js" */

const QUIET = 1000; // milliseconds without a question after which WebGPU is tried

/**
 * @param {Model} model `model.json`
 * @param {(event: "lost") => void} [tell] WebGPU failed, and WASM goes on
 * @returns {Client}
 */
export function localClient(model, tell = () => {}) {
  /** @type {Engine} */
  let engine;
  const { ask, isIdle } = askWorker((name) => {
    engine = { ...engine, name, isLost: true };
    tell("lost");
  });
  const started = ask("start", { model });
  keepOffline();

  let isTried = false;
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  let soon;
  /** Tries WebGPU once, when nobody waits for a picture. */
  function tryLater() {
    clearTimeout(soon);
    if (!isTried) soon = setTimeout(() => void tryGpu(), QUIET);
  }
  async function tryGpu() {
    if (!isIdle()) return; // the next answer comes back to it
    isTried = true;
    const trial = await ask("tryGpu", {}).catch(() => null);
    engine = { ...engine, name: trial?.name ?? engine.name, trial };
  }

  /** @type {WeakMap<Blob, Promise<Look>>} one change of a threshold needs no other look */
  const looks = new WeakMap();
  /** @param {Blob} picture @returns {Promise<Look>} */
  function look(picture) {
    const known = looks.get(picture);
    if (known) return known;
    const asked = ask("look", { picture }).finally(tryLater);
    looks.set(picture, asked);
    asked.catch(() => looks.delete(picture)); // asked for again the next time
    return asked;
  }

  return {
    /** The model, its engine compared with PyTorch just now. */
    async model() {
      const { name, agreement } = await started;
      engine ??= { name, agreement, isLost: false };
      return { ...model, engine: name };
    },
    engine: () => engine,
    detect: (picture, threshold = LEAST_SCORE) => ask("detect", { picture, threshold }).finally(tryLater),
    look,
    match: async (picture, truth, threshold) => explainMatching(await look(picture), truth, model, threshold),
  };
}

/**
 * Starts the worker; gives what asks it, and whether it has answered everything.
 *
 * @param {(name: string) => void} lost called where another engine, of this name, goes on
 */
function askWorker(lost) {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  /** @type {Map<number, {resolve: (answer: any) => void, reject: (failure: Failure) => void}>} */
  const waiting = new Map();
  let asked = 0;
  worker.onmessage = ({ data: { id, answer, failure, instead } }) => {
    if (instead) return lost(instead);
    const one = waiting.get(id);
    waiting.delete(id);
    if (failure) one?.reject(new Failure(failure.kind, failure.values));
    else one?.resolve(answer);
  };
  worker.onerror = ({ message }) => {
    for (const { reject } of waiting.values()) reject(new Failure("page", { sentence: message || "the worker stopped" }));
    waiting.clear();
  };
  /** @param {string} work @param {object} given @returns {Promise<any>} */
  const ask = (work, given) =>
    new Promise((resolve, reject) => {
      waiting.set((asked += 1), { resolve, reject });
      worker.postMessage({ id: asked, work, given });
    });
  return { ask, isIdle: () => waiting.size === 0 };
}

/** Has the browser keep the folder's files. `main.js` starts the page anew when a new export is kept. */
function keepOffline() {
  const container = navigator.serviceWorker; // only on https and localhost
  if (!container) return;
  container
    .register(new URL("../sw.js", import.meta.url), { updateViaCache: "none" })
    .then((registration) => registration.update().catch(() => {}), // asks now for a new export; there may be no network
      (error) => console.warn("This page will not work offline:", error));
}
