/** Runs the model beside the page, so that the page never stands still: onnxruntime-web on WASM, or on WebGPU. */

import { Failure } from "../failure.js";
import { agreement } from "../model/agreement.js";
import { detections } from "../model/postprocess.js";
import { preprocess } from "../model/preprocess.js";
import { pixelsOf } from "./pixels.js";

/**
 * @import { Agreement, Answer, Bounds } from "../model/agreement.js"
 * @import { Detection, Look, Model, Picture, Tensor, Trial } from "../types.js"
 * @import { Pixels } from "../model/preprocess.js"
 *
 * @typedef {typeof import("onnxruntime-web")} Runtime
 * @typedef {import("onnxruntime-web").InferenceSession} Session
 *
 * @typedef {object} Engine
 * @property {Runtime} runtime
 * @property {Session} session of `model.onnx`
 * @property {string} name
 *
 * @typedef {object} Sample
 * @property {string} picture name of its file
 * @property {number} width
 * @property {number} height
 * @property {Answer[]} answers of PyTorch
 * @property {Bounds} bounds
 */

const FOLDER = new URL("..", import.meta.url); // of the page
const RUNTIME = new URL("node_modules/onnxruntime-web/dist/", FOLDER);
const MOST_THREADS = 8;
const TIMED_RUNS = 3;
// The same weights in the same precision: an engine that differs by more has a fault.
const SAME = { score: 1e-3, iou: 0.99, agreement: 1 };

/** @type {Model} */
let model;
/** @type {Engine} */
let wasm;
/** The one that detects: WASM, or WebGPU. @type {Engine} */
let engine;
/** @type {Promise<Session>|undefined} */
let looking;

/** What the page asks for, by name. @type {Record<string, (given: any) => Promise<any>>} */
const WORKS = { start, detect, look, tryGpu };

/** One after the other: a session runs one picture at a time. @type {Promise<unknown>} */
let before = Promise.resolve();
self.onmessage = ({ data: { id, work, given } }) => {
  before = before.then(async () => {
    try {
      self.postMessage({ id, answer: await WORKS[work](given) });
    } catch (error) {
      const { kind, values } = error instanceof Failure ? error : new Failure("page", { sentence: String(error) });
      self.postMessage({ id, failure: { kind, values } });
    }
  });
};

/**
 * Loads the model, and compares its answers to the sample picture with those of PyTorch.
 *
 * @param {{model: Model}} given
 * @returns {Promise<{name: string, agreement: Agreement}>}
 * @throws {Failure} the runtime is not installed, or the answers differ
 */
async function start(given) {
  model = given.model;
  const runtime = await runtimeOf("ort.wasm.min.mjs");
  const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  runtime.env.wasm.numThreads = threads;
  const session = await sessionOf(runtime, "model.onnx", "wasm");
  engine = wasm = { runtime, session, name: `onnxruntime-web ${runtime.env.versions.web}, WASM, ${threads === 1 ? "1 thread" : `${threads} threads`}` };
  const { sample, pixels } = await readSample();
  const found = agreement(sample.answers, await answer(engine, pixels, 0), sample.bounds, sample);
  if (!found.holds) throw new Failure("disagrees", { agreeing: found.agreeing, count: found.count });
  return { name: engine.name, agreement: found };
}

/**
 * Detects on WebGPU from now on, where the browser has it, its answers to the sample picture are those of WASM, and it is
 * faster.
 *
 * @returns {Promise<Trial|null>} null: there is no WebGPU
 */
async function tryGpu() {
  const gpu = /** @type {any} */ (navigator).gpu;
  if (!(await gpu?.requestAdapter().catch(() => null))) return null;
  const { sample, pixels } = await readSample();
  const truth = (await answer(wasm, pixels, 0)).slice(0, sample.answers.length);
  try {
    const runtime = await runtimeOf("ort.webgpu.min.mjs");
    runtime.env.wasm.numThreads = 1;
    const session = await sessionOf(runtime, "model.onnx", "webgpu");
    const other = { runtime, session, name: `onnxruntime-web ${runtime.env.versions.web}, WebGPU` };
    const found = agreement(truth, await answer(other, pixels, 0), SAME, sample);
    const milliseconds = [await timeOf(wasm, pixels), await timeOf(other, pixels)];
    if (found.holds && truth.length && milliseconds[1] < milliseconds[0]) engine = other;
    return { name: engine.name, isUsed: engine === other, agreement: found, milliseconds };
  } catch (error) {
    console.warn("WebGPU cannot run the model:", error);
    return { name: engine.name, isUsed: false, agreement: null, milliseconds: [] };
  }
}

/**
 * @param {{picture: Blob, threshold: number}} given
 * @returns {Promise<Picture>}
 */
async function detect({ picture, threshold }) {
  const pixels = await pixelsOf(picture);
  const { width, height } = pixels;
  try {
    return { width, height, detections: await answer(engine, pixels, threshold) };
  } catch (error) {
    if (engine === wasm) throw error;
    console.warn("WebGPU failed; WASM goes on:", error); // a graphics card may be taken away at any time
    engine = wasm;
    self.postMessage({ instead: engine.name });
    return { width, height, detections: await answer(engine, pixels, threshold) };
  }
}

/**
 * @param {{picture: Blob}} given
 * @returns {Promise<Look>}
 */
async function look({ picture }) {
  // Always on WASM, whose answers are compared with PyTorch's; made when it is first asked for.
  looking ??= runtimeOf("ort.wasm.min.mjs").then((runtime) => sessionOf(runtime, "look.onnx", "wasm"));
  const session = await looking.catch((error) => {
    looking = undefined;
    throw error;
  });
  const pixels = await pixelsOf(picture);
  const runtime = await runtimeOf("ort.wasm.min.mjs");
  const { feeds, input } = feedsOf(runtime, pixels);
  const { cells, ...found } = await session.run(feeds);
  /** @type {[number, number][]} */
  const shapes = shapesOf(/** @type {Float32Array} */ (cells.data));
  const [rows, columns] = shapes[0];
  const stride = model.strides[0];
  const tensors = Object.entries(found).map(([name, { dims, data }]) => [name, { shape: [...dims], data }]);
  return {
    width: pixels.width,
    height: pixels.height,
    // The last cells of a map may reach beyond the picture.
    extent: [(columns * stride * pixels.width) / input.width, (rows * stride * pixels.height) / input.height],
    memory_shapes: shapes,
    tensors: /** @type {Record<string, Tensor>} */ (Object.fromEntries(tensors)),
  };
}

/**
 * Height and width of every map of the memory: the cells of a map are all equal, and the map counts as 1 × 1.
 *
 * @param {Float32Array} cells cxcywh of every cell, 0..1
 * @returns {[number, number][]}
 */
function shapesOf(cells) {
  /** @type {[number, number][]} */
  const shapes = [];
  for (let at = 0; at < cells.length; ) {
    const [rows, columns] = [Math.round(1 / cells[at + 3]), Math.round(1 / cells[at + 2])];
    shapes.push([rows, columns]);
    at += rows * columns * 4;
  }
  return shapes;
}

/**
 * @param {Engine} which
 * @param {Pixels} pixels
 * @param {number} threshold
 * @returns {Promise<Detection[]>}
 */
async function answer({ runtime, session }, pixels, threshold) {
  const { feeds } = feedsOf(runtime, pixels);
  const { logits, boxes_cxcywh } = await session.run(feeds, ["logits", "boxes_cxcywh"]);
  const [scores, boxes] = [logits.data, boxes_cxcywh.data].map((data) => /** @type {Float32Array} */ (data));
  return detections(scores, boxes, model, pixels, threshold);
}

/**
 * @param {Runtime} runtime
 * @param {Pixels} pixels
 */
function feedsOf(runtime, pixels) {
  const input = preprocess(pixels, /** @type {any} */ (model.preprocessing));
  const { width, height } = input;
  const images = new runtime.Tensor("float32", input.data, [1, 3, height, width]);
  const padding_mask = new runtime.Tensor("bool", new Uint8Array(height * width), [1, height, width]);
  return { feeds: { images, padding_mask }, input };
}

/**
 * @param {Engine} which
 * @param {Pixels} pixels
 */
async function timeOf(which, pixels) {
  let best = Infinity;
  for (let run = 0; run < TIMED_RUNS; run++) {
    const begun = performance.now();
    await answer(which, pixels, 0.5);
    best = Math.min(best, performance.now() - begun);
  }
  return best;
}

/** @returns {Promise<{sample: Sample, pixels: Pixels}>} */
async function readSample() {
  const sample = await (await fetch(new URL("sample.json", FOLDER))).json();
  return { sample, pixels: await pixelsOf(await (await fetch(new URL(sample.picture, FOLDER))).blob()) };
}

/**
 * @param {string} file
 * @returns {Promise<Runtime>}
 */
async function runtimeOf(file) {
  try {
    return await import(new URL(file, RUNTIME).href);
  } catch {
    throw new Failure("runtime");
  }
}

/**
 * @param {Runtime} runtime
 * @param {string} file
 * @param {"wasm"|"webgpu"} provider
 */
function sessionOf(runtime, file, provider) {
  return runtime.InferenceSession.create(new URL(file, FOLDER).href, { executionProviders: [provider], graphOptimizationLevel: "all" });
}
