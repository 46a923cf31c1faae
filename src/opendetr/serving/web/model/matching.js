/**
 * Which query is matched to which object, why an object was missed, and what every false alarm is: case by case and fact
 * by fact as `explanation/matching.py` and `explanation/false_alarms.py` find it.
 */

import { boxIou, cxcywhToXyxy, f32, generalizedBoxIou, inFractions, inPixels } from "./boxes.js";
import { assign } from "./hungarian.js";
import { answers, bestFirst, largestAt, probabilities, reaches } from "./postprocess.js";
import { fixed, general, oneLine } from "./wording.js";

/** @typedef {import("../types.js").Look} Look */
/** @typedef {import("../types.js").Model} Model */
/** @typedef {import("../types.js").Truth} Truth */
/** @typedef {import("../types.js").Box} Box */
/** @typedef {import("../types.js").Candidate} Candidate */
/** @typedef {import("../types.js").ObjectMatch} ObjectMatch */
/** @typedef {import("../types.js").FalseAlarm} FalseAlarm */
/** @typedef {import("../types.js").Matching} Matching */
/** @typedef {import("../types.js").Verdict} Verdict */
/** @typedef {import("./postprocess.js").Threshold} Threshold */
/** @typedef {Pick<Model, "classes"|"scoring"|"costs"|"thresholds">} Judge what must be known of the model */

const NEAR = 0.5; // smallest IoU of a box that finds an object, as in AP50
const TOUCHES = 0.1; // smallest IoU with an object of a detection that is not background
const MEANS = 0.1; // smallest score below the threshold that still counts as an answer
const RUNNERS_UP = 3;

/**
 * Says for every true object of a picture which query is matched to it and why it was missed, if it was; and what the
 * detections are that find none.
 *
 * @param {Look} look
 * @param {Truth[]} truth
 * @param {Judge} model
 * @param {Threshold} [threshold] the model's own without it
 * @returns {Matching}
 */
export function explainMatching(look, truth, model, threshold = model.thresholds) {
  const history = new History(look, truth, model, threshold);
  const objects = objectMatches(history);
  return { width: look.width, height: look.height, objects, false_alarms: falseAlarms(history, objects) };
}

/** Scores and overlaps of all decoder layers. */
class History {
  /**
   * @param {Look} look
   * @param {Truth[]} truth
   * @param {Judge} model
   * @param {Threshold} threshold
   */
  constructor(look, truth, model, threshold) {
    const { logits, boxes_cxcywh } = look.tensors;
    const [numLayers, numQueries, width] = logits.shape;
    const range = (/** @type {number} */ length) => Array.from({ length }, (_, at) => at);
    this.look = look;
    this.truth = truth;
    this.model = model;
    this.threshold = threshold;
    this.names = model.classes.map(({ name }) => oneLine(name));
    this.queries = range(numQueries);
    this.last = numLayers - 1;
    this.true = truth.map(({ box_xyxy }) => inFractions(box_xyxy, look.width, look.height));
    const logitsOf = (/** @type {number} */ layer, /** @type {number} */ query) =>
      logits.data.subarray((layer * numQueries + query) * width, (layer * numQueries + query + 1) * width);
    const boxAt = (/** @type {number} */ layer, /** @type {number} */ query) => (layer * numQueries + query) * 4;
    /** The logits of the last layer. @type {Float32Array[]} */
    this.logits = this.queries.map((query) => logitsOf(this.last, query));
    /** The boxes of the last layer, cxcywh. @type {Float32Array} */
    this.boxes = boxes_cxcywh.data.subarray(boxAt(this.last, 0), boxAt(numLayers, 0));
    /** Of every layer, query and class. @type {Float32Array[][]} */
    this.scores = range(numLayers).map((layer) =>
      this.queries.map((query) => probabilities(logitsOf(layer, query), model.scoring)),
    );
    const trueCorners = this.true.map((box) => cxcywhToXyxy(box));
    /** Of every layer, query and object. @type {number[][][]} */
    this.ious = range(numLayers).map((layer) =>
      this.queries.map((query) => {
        const corners = cxcywhToXyxy(boxes_cxcywh.data, boxAt(layer, query));
        return trueCorners.map((box) => boxIou(corners, box));
      }),
    );
    /** What the queries answer in every layer. @type {import("./postprocess.js").Answers[]} */
    this.answers = range(numLayers).map((layer) =>
      answers(logits.data.subarray(layer * numQueries * width, (layer + 1) * numQueries * width), numQueries, model.scoring),
    );
    /** Whether a query of a layer answers with a class: softmax models answer with the best only. */
    this.given = this.answers.map(({ queries, labels }) => new Set(Array.from(queries, (query, at) => `${query} ${labels[at]}`)));
    /** The best class of every query in the last layer, and its score. */
    this.best = this.scores[this.last].map((row) => ({ label: largestAt(row), score: row[largestAt(row)] }));
    this.foundInLayers = range(numLayers).map((layer) => this.found(layer));
  }

  /**
   * Whether a query of a layer has an object's class, enough score and enough IoU.
   *
   * @param {number} layer
   * @param {number} query
   * @param {number} number of the object
   */
  right(layer, query, number) {
    const { label } = this.truth[number];
    return (
      this.ious[layer][query][number] >= NEAR &&
      this.given[layer].has(`${query} ${label}`) &&
      reaches(this.scores[layer][query][label], label, this.threshold)
    );
  }

  /**
   * The query that detects an object in a layer; the best scores choose first, each its best object.
   *
   * @param {number} layer
   * @returns {Map<number, number>} from object to query
   */
  found(layer) {
    const found = new Map();
    const order = bestFirst(this.scores[layer].map((row) => row.reduce((a, b) => Math.max(a, b), -Infinity)));
    for (const query of order) {
      const free = this.truth.map((_, number) => number).filter((number) => !found.has(number) && this.right(layer, query, number));
      if (free.length) found.set(firstBest(free, (number) => this.ious[layer][query][number]), query);
    }
    return found;
  }

  /**
   * A query beside an object in the last layer.
   *
   * @param {number} query
   * @param {number} number of the object
   */
  facts(query, number) {
    const { label, score } = this.best[query];
    return { query, iou: fixed(this.ious[this.last][query][number], 2), answer: this.names[label], score: fixed(score, 2) };
  }
}

/**
 * @param {History} history
 * @returns {ObjectMatch[]}
 */
function objectMatches(history) {
  const terms = history.true.map((box, number) =>
    history.queries.map((query) => costTerms(history, query, box, history.truth[number].label)),
  );
  const total = (/** @type {number[]} */ [ofClass, l1, giou]) => f32(f32(ofClass + l1) + giou);
  const taken = assign(terms.map((row) => row.map(total)));
  const found = history.foundInLayers[history.last];
  const owner = new Map([...found].map(([number, query]) => [query, number]));
  return history.truth.map(({ label, box_xyxy }, number) => {
    const costs = terms[number].map(total);
    const cheapestFirst = [...history.queries].sort((a, b) => costs[a] - costs[b]);
    const candidates = cheapestFirst.map((query) => candidate(history, query, terms[number][query], number));
    const query = found.get(number);
    const name = history.names[label];
    const missed = query === undefined ? whyMissed(history, number, owner) : null;
    return {
      name,
      label,
      box_xyxy,
      taken_by: candidates.find((one) => one.query === taken[number]) ?? null,
      runners_up: candidates.filter((one) => one.query !== taken[number]).slice(0, RUNNERS_UP),
      found_by: query ?? null,
      reason: missed && missed.reason,
      verdict: missed ? missed.verdict : foundVerdict(history, /** @type {number} */ (query), number),
    };
  });
}

/**
 * What became of an object or a detection; the facts as Python writes them.
 *
 * @param {string} name of the case
 * @param {Record<string, number|string>} facts
 * @returns {Verdict}
 */
function verdict(name, facts) {
  return { case: name, facts: Object.fromEntries(Object.entries(facts).map(([key, fact]) => [key, String(fact)])) };
}

/**
 * @param {History} history
 * @param {number} query
 * @param {number} number
 */
function foundVerdict(history, query, number) {
  const { label } = history.truth[number];
  const score = fixed(history.scores[history.last][query][label], 2);
  const iou = fixed(history.ious[history.last][query][number], 2);
  return verdict("found", { query, name: history.names[label], score, iou });
}

/**
 * The weighted terms of the matching cost (equation 1): class, L1, GIoU.
 *
 * @param {History} history
 * @param {number} query
 * @param {Box} box cxcywh of the object
 * @param {number} label
 */
function costTerms({ model, logits, boxes, scores, last }, query, box, label) {
  const { costs, scoring } = model;
  const p = scores[last][query][label];
  const ofClass = scoring === "softmax" ? -p : focalCost(logits[query][label], p);
  const l1 = box.reduce((sum, value, at) => f32(sum + Math.abs(f32(value - boxes[query * 4 + at]))), 0);
  const giou = generalizedBoxIou(cxcywhToXyxy(boxes, query * 4), cxcywhToXyxy(box));
  return [f32(costs.class * ofClass), f32(costs.l1 * l1), f32(-f32(costs.giou * giou))].map((term) =>
    Number.isFinite(term) ? term : 1e6,
  );
}

const NEGATIVE_WEIGHT = 0.75; // of absent classes in the focal loss; its exponent is 2

/**
 * The change of the focal loss if the query were matched to the object.
 *
 * @param {number} logit
 * @param {number} p its sigmoid
 */
function focalCost(logit, p) {
  const softplus = (/** @type {number} */ x) => f32(x > 20 ? x : Math.log1p(Math.exp(x)));
  const absent = f32(1 - p);
  const positive = f32(f32((1 - NEGATIVE_WEIGHT) * f32(absent * absent)) * softplus(-logit));
  const negative = f32(f32(NEGATIVE_WEIGHT * f32(p * p)) * softplus(logit));
  return f32(positive - negative);
}

/**
 * @param {History} history
 * @param {number} query
 * @param {number[]} terms
 * @param {number} number
 * @returns {Candidate}
 */
function candidate(history, query, [class_cost, l1_cost, giou_cost], number) {
  const { label, score } = history.best[query];
  const iou = history.ious[history.last][query][number];
  const cost = class_cost + l1_cost + giou_cost;
  return { query, class_cost, l1_cost, giou_cost, cost, iou, answer: history.names[label], score };
}

/**
 * The reason and its facts.
 *
 * @param {History} history
 * @param {number} number
 * @param {Map<number, number>} owner from a query to the object that it detects already
 * @returns {{reason: string, verdict: Verdict}}
 */
function whyMissed(history, number, owner) {
  const { names, truth, best, last, threshold } = history;
  const { label } = truth[number];
  const iouOf = (/** @type {number} */ query) => history.ious[last][query][number];
  const factsOf = (/** @type {number} */ query) => history.facts(query, number);
  const isShown = (/** @type {number} */ query) => reaches(best[query].score, best[query].label, threshold);

  const lost = whereLost(history, number, owner);
  if (lost) {
    const { layer, query } = lost;
    const there = {
      score_there: fixed(history.scores[layer][query][label], 2),
      iou_there: fixed(history.ious[layer][query][number], 2),
    };
    const facts = { ...factsOf(query), layer: layer + 1, next_layer: layer + 2, ...there };
    return { reason: "lost at a later layer", verdict: verdict("lost", facts) };
  }
  const near = history.queries.filter((query) => iouOf(query) >= NEAR);
  if (!near.length) {
    const { query, iou } = factsOf(largestAt(history.queries.map(iouOf)));
    return { reason: "no query near it", verdict: verdict("not_near", { query, iou }) };
  }
  const free = near.filter((query) => !owner.has(query)).sort((a, b) => best[b].score - best[a].score);
  const owned = near.filter((query) => owner.has(query));
  const rightForBoth = owned.filter((query) => history.right(last, query, number));
  const answering = free.filter((query) => isShown(query) || best[query].score >= MEANS);
  const right = answering.filter((query) => best[query].label === label);
  const wrong = answering.filter((query) => best[query].label !== label);
  const shownWrong = wrong.length > 0 && isShown(wrong[0]);
  if (right.length && !shownWrong) {
    const least = general(typeof threshold === "number" ? threshold : threshold[label], 3);
    const low = { ...factsOf(right[0]), threshold: least };
    const reason = "right answer, score below the threshold";
    if (!rightForBoth.length) return { reason, verdict: verdict("low_score", low) };
    const { query, answer, score } = factsOf(firstBest(rightForBoth, iouOf));
    const theirs = { other_query: query, other_answer: answer, other_score: score, number: numberOf(owner, query) };
    return { reason, verdict: verdict("low_score_other_taken", { ...low, ...theirs }) };
  }
  if (owned.length && !shownWrong) {
    const { query, iou } = factsOf(firstBest(owned, iouOf));
    const theirs = numberOf(owner, query);
    return {
      reason: "query taken by a neighbour",
      verdict: verdict("taken", { query, iou, name: names[truth[theirs - 1].label], number: theirs }),
    };
  }
  if (wrong.length) return { reason: "right box, wrong class", verdict: verdict("wrong_class", factsOf(wrong[0])) };
  return { reason: "query near it, but all its scores are low", verdict: verdict("silent", factsOf(firstBest(near, iouOf))) };
}

/**
 * The number, from 1, of the object that a query detects.
 *
 * @param {Map<number, number>} owner
 * @param {number} query
 */
function numberOf(owner, query) {
  return /** @type {number} */ (owner.get(query)) + 1;
}

/**
 * The latest layer before the last that found the object, and the query; null where none did. A query that fitted
 * another object better at that layer does not count.
 *
 * @param {History} history
 * @param {number} number
 * @param {Map<number, number>} owner
 */
function whereLost(history, number, owner) {
  for (let layer = history.last - 1; layer >= 0; layer--) {
    const query = history.foundInLayers[layer].get(number);
    if (query === undefined || owner.has(query)) continue;
    const fits = history.truth.map((_, other) => (history.right(layer, query, other) ? history.ious[layer][query][other] : 0));
    if (fits[number] === Math.max(...fits)) return { layer, query };
  }
  return null;
}

/**
 * The detections that find no object, best first.
 *
 * @param {History} history
 * @param {ObjectMatch[]} objects
 * @returns {FalseAlarm[]}
 */
function falseAlarms(history, objects) {
  const { look, model, threshold, last } = history;
  const { scores, labels, queries } = history.answers[last];
  const found = new Set(objects.filter((one) => one.found_by !== null).map((one) => `${one.found_by} ${one.label}`));
  return bestFirst(scores)
    .filter((at) => reaches(scores[at], labels[at], threshold) && model.classes[labels[at]].category_id !== null)
    .filter((at) => !found.has(`${queries[at]} ${labels[at]}`))
    .map((at) => {
      const [query, label] = [queries[at], labels[at]];
      const box_xyxy = inPixels(history.boxes, query * 4, look.width, look.height);
      return { query, name: history.names[label], score: scores[at], box_xyxy, ...kindOf(history, query, label, objects) };
    });
}

/**
 * The kind of a false alarm (Bolya et al. 2020, TIDE, section 2.1) and its facts.
 *
 * @param {History} history
 * @param {number} query
 * @param {number} label
 * @param {ObjectMatch[]} objects
 */
function kindOf(history, query, label, objects) {
  const ious = history.ious[history.last][query];
  const bestOf = (/** @type {boolean} */ same) => {
    const chosen = ious.map((iou, number) => ((history.truth[number].label === label) === same ? iou : -1));
    const number = largestAt(chosen);
    return { number, iou: chosen[number] ?? -1 };
  };
  const [same, other] = [bestOf(true), bestOf(false)];
  const overlaps = (/** @type {{number: number, iou: number}} */ { number, iou }) =>
    ({ name: objects[number].name, number: number + 1, iou: fixed(iou, 2) });
  const least = String(NEAR);
  if (same.iou >= NEAR) {
    const finder = objects[same.number].found_by;
    const [name, who] = finder === null ? ["double_finds_another", { query }] : ["double", { finder }];
    return { kind: "a double", verdict: verdict(name, { ...overlaps(same), ...who }) };
  }
  if (other.iou >= NEAR) return { kind: "another class", verdict: verdict("another_class", overlaps(other)) };
  if (same.iou >= TOUCHES) return { kind: "badly placed", verdict: verdict("badly_placed", { ...overlaps(same), least }) };
  if (other.iou >= TOUCHES) {
    return { kind: "another class, badly placed", verdict: verdict("another_class_badly_placed", { ...overlaps(other), least }) };
  }
  return { kind: "background", verdict: verdict("background", { least: String(TOUCHES) }) };
}

/**
 * The item with the largest value, the first of equal ones.
 *
 * @param {number[]} items
 * @param {(item: number) => number} valueOf
 */
function firstBest(items, valueOf) {
  return items[largestAt(items.map(valueOf))];
}
