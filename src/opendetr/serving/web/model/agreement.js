/** Whether an engine answers to the sample picture as it should: the page's own certificate, made where it runs. */

import { boxIou } from "./boxes.js";

/**
 * @import { Box } from "../types.js"
 *
 * @typedef {{label: number, score: number, box_xyxy: Box}} Answer
 *
 * @typedef {object} Bounds
 * @property {number} score the largest difference of scores
 * @property {number} iou the smallest overlap of boxes
 * @property {number} agreement the share of answers that must have a partner
 *
 * @typedef {object} Agreement
 * @property {number} count expected answers
 * @property {number} agreeing
 * @property {number} apart the largest difference of the boxes of partners, of the picture's sides
 * @property {boolean} holds
 */

/**
 * @param {Answer[]} expected
 * @param {Answer[]} found any number of answers more
 * @param {Bounds} bounds
 * @param {{width: number, height: number}} picture
 * @returns {Agreement}
 */
export function agreement(expected, found, bounds, picture) {
  const free = new Set(found);
  let [agreeing, apart] = [0, 0];
  for (const one of expected) {
    const partners = [...free].filter(
      ({ label, score, box_xyxy }) =>
        label === one.label && Math.abs(score - one.score) <= bounds.score && boxIou(box_xyxy, one.box_xyxy) >= bounds.iou,
    );
    if (!partners.length) continue;
    const distance = (/** @type {Answer} */ other) =>
      Math.max(...one.box_xyxy.map((side, at) => Math.abs(side - other.box_xyxy[at]) / (at % 2 ? picture.height : picture.width)));
    const partner = partners.reduce((best, other) => (distance(other) < distance(best) ? other : best));
    free.delete(partner);
    agreeing += 1;
    apart = Math.max(apart, distance(partner));
  }
  return { count: expected.length, agreeing, apart, holds: agreeing >= bounds.agreement * expected.length };
}
