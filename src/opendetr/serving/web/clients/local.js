/** The page's client in a static folder: a worker that runs the model in the browser. */

import { Failure } from "../failure.js";
import { explainMatching } from "../model/matching.js";
import { LEAST_SCORE } from "../model/postprocess.js";

/** @import { Client, Look, Model } from "../types.js" */

/**
 * @param {Model} model `model.json`
 * @returns {Client}
 */
export function localClient(model) {
  const ask = askWorker();
  const started = ask("start", { model });
  keepOffline();
  /** @param {Blob} picture @returns {Promise<Look>} */
  const look = (picture) => ask("look", { picture });
  return {
    /** The model, its engine compared with PyTorch just now. The trial of WebGPU is written into the certificate later. */
    async model() {
      const { name, agreement } = await started;
      const certificate = { ...model.certificate, "in this browser": `${name}: ${said(agreement)}` };
      // Beside the page, which shows the certificate as it then is.
      void ask("tryGpu", {}).then((trial) => Object.assign(certificate, { WebGPU: verdict(trial) }));
      return { ...model, engine: name, certificate };
    },
    detect: (picture, threshold = LEAST_SCORE) => ask("detect", { picture, threshold }),
    look,
    match: async (picture, truth, threshold) => explainMatching(await look(picture), truth, model, threshold),
  };
}

/** @param {import("../model/agreement.js").Agreement} agreement */
function said({ agreeing, count, apart }) {
  return `${agreeing} of ${count} answers to the sample picture agree, boxes within ${apart.toExponential(0)}`;
}

/** @param {{name: string, agreement: import("../model/agreement.js").Agreement|null, milliseconds: number[]}|null} trial */
function verdict(trial) {
  if (!trial) return "this browser has none";
  if (!trial.agreement) return "cannot run this model; not used";
  const [wasm, gpu] = trial.milliseconds.map((time) => `${time.toFixed(0)} ms`);
  const use = trial.name.includes("WebGPU") ? "used" : "not used";
  return `${use}: ${said(trial.agreement)} with WASM, ${gpu} instead of ${wasm}`;
}

/**
 * Starts the worker; gives what asks it.
 *
 * @returns {(work: string, given: object) => Promise<any>}
 */
function askWorker() {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  /** @type {Map<number, {resolve: (answer: any) => void, reject: (failure: Failure) => void}>} */
  const waiting = new Map();
  let asked = 0;
  worker.onmessage = ({ data: { id, answer, failure } }) => {
    const one = waiting.get(id);
    waiting.delete(id);
    if (failure) one?.reject(new Failure(failure.kind, failure.values));
    else one?.resolve(answer);
  };
  worker.onerror = ({ message }) => {
    for (const { reject } of waiting.values()) reject(new Failure("page", { sentence: message || "the worker stopped" }));
    waiting.clear();
  };
  return (work, given) =>
    new Promise((resolve, reject) => {
      waiting.set((asked += 1), { resolve, reject });
      worker.postMessage({ id: asked, work, given });
    });
}

/** Has the browser keep the folder's files; after a new export the page starts anew with the new ones. */
function keepOffline() {
  const container = navigator.serviceWorker; // only on https and localhost
  if (!container) return;
  const isKept = container.controller !== null;
  container.addEventListener("controllerchange", () => {
    if (isKept) location.reload();
  });
  container
    .register(new URL("../sw.js", import.meta.url), { updateViaCache: "none" })
    .then((registration) => registration.update()) // asks now whether there is a new export, else some time later
    .catch((error) => console.warn("This page will not work offline:", error));
}
