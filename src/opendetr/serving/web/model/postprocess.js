/** From the model's output to detections in pixels of the picture, as `scoring.py` and `postprocess.py` make them. */

import { f32, inPixels } from "./boxes.js";

/** @typedef {import("../types.js").Model} Model */
/** @typedef {import("../types.js").Detection} Detection */
/** @typedef {number|number[]} Threshold on scores: one for all classes, or one per class */

/**
 * @typedef {object} Answers the N answers of a model, before any threshold
 * @property {Float32Array} scores 0..1
 * @property {Int32Array} labels
 * @property {Int32Array} queries
 */

export const LEAST_SCORE = 0.05; // of the detections that are given where no threshold is asked for

/**
 * The score of every class of one query.
 *
 * @param {Float32Array} logits of one query, K of them
 * @param {Model["scoring"]} scoring
 * @returns {Float32Array} one per class, without no-object
 */
export function probabilities(logits, scoring) {
  if (scoring === "focal") return logits.map((logit) => 1 / f32(1 + f32(Math.exp(-logit))));
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = logits.map((logit) => Math.exp(f32(logit - largest)));
  const sum = f32(powers.reduce((a, b) => a + b, 0));
  return powers.subarray(0, -1).map((power) => power / sum);
}

/**
 * The answers of the queries: softmax models give one per query, focal ones the best pairs of query and class.
 *
 * @param {Float32Array} logits [Q, K]
 * @param {number} numQueries
 * @param {Model["scoring"]} scoring
 * @returns {Answers}
 */
export function answers(logits, numQueries, scoring) {
  const width = logits.length / numQueries;
  const rows = Array.from({ length: numQueries }, (_, query) =>
    probabilities(logits.subarray(query * width, (query + 1) * width), scoring),
  );
  if (scoring === "softmax") {
    const labels = Int32Array.from(rows, largestAt);
    return {
      scores: Float32Array.from(rows, (row, query) => row[labels[query]]),
      labels,
      queries: Int32Array.from(rows, (_, query) => query),
    };
  }
  const scores = Float32Array.from(rows.flatMap((row) => [...row]));
  const best = bestFirst(scores).slice(0, numQueries);
  return {
    scores: Float32Array.from(best, (at) => scores[at]),
    labels: Int32Array.from(best, (at) => at % width),
    queries: Int32Array.from(best, (at) => Math.floor(at / width)),
  };
}

/**
 * Whether a score is at least the threshold. Python compares with one number in single precision, and with numbers of
 * classes in double precision.
 *
 * @param {number} score
 * @param {number} label
 * @param {Threshold} threshold
 */
export function reaches(score, label, threshold) {
  return score >= (typeof threshold === "number" ? f32(threshold) : threshold[label]);
}

/**
 * The detections of a picture, best first; those of classes without a category are left out.
 *
 * @param {Float32Array} logits [Q, K] of the last decoder layer
 * @param {Float32Array} boxesCxcywh [Q, 4]
 * @param {Pick<Model, "classes"|"scoring">} model
 * @param {{width: number, height: number}} picture
 * @param {Threshold} threshold
 * @returns {Detection[]}
 */
export function detections(logits, boxesCxcywh, model, picture, threshold) {
  const found = answers(logits, boxesCxcywh.length / 4, model.scoring);
  const isShown = (/** @type {number} */ place) =>
    reaches(found.scores[place], found.labels[place], threshold) &&
    model.classes[found.labels[place]].category_id !== null;
  return bestFirst(found.scores)
    .filter(isShown)
    .map((place) => {
      const [query, label] = [found.queries[place], found.labels[place]];
      const { name, category_id } = model.classes[label];
      const box_xyxy = inPixels(boxesCxcywh, query * 4, picture.width, picture.height);
      return { query, label, name, category_id, score: found.scores[place], box_xyxy };
    });
}

/**
 * The places of numbers from the largest to the smallest; equal ones in their order.
 *
 * @param {ArrayLike<number>} values
 */
export function bestFirst(values) {
  return Array.from(values, (_, at) => at).sort((a, b) => values[b] - values[a]);
}

/**
 * The place of the largest number, the first of equal ones.
 *
 * @param {ArrayLike<number>} values
 */
export function largestAt(values) {
  let best = 0;
  for (let at = 1; at < values.length; at++) if (values[at] > values[best]) best = at;
  return best;
}
