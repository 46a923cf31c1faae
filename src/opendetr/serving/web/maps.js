/** What the views show of a look: attention maps of a head or of all, and the answers of every decoder layer. */

import { atCells, cellAt, crossRow, encoderColumn, encoderRow, meanOf, onPicture } from "./model/attention.js";
import { inPixels } from "./model/boxes.js";
import { largestAt, probabilities } from "./model/postprocess.js";

/** @import { Box, Detection, Look, Model } from "./types.js" */

/**
 * What a query looked at in a decoder layer.
 *
 * @param {Look} look
 * @param {number} layer
 * @param {number} query
 * @param {{head: number, prior: boolean}} shown head -1: the mean of all; `prior`: with the focus prior, if there is one
 */
export function queryMap(look, layer, query, { head, prior }) {
  return onPicture(headOf(crossRow(look, layer, query, { focus: prior }), head), look.memory_shapes);
}

/**
 * What the cell at a point attends to in an encoder layer, or which cells attend to it (`readers`).
 *
 * @param {Look} look
 * @param {number} layer
 * @param {{x: number, y: number}} point
 * @param {{head: number, readers: boolean}} shown
 */
export function pixelMap(look, layer, { x, y }, { head, readers }) {
  const cell = cellAt(look, x, y);
  return readers
    ? atCells(headOf(encoderColumn(look, layer, cell), head), look.memory_shapes)
    : onPicture(headOf(encoderRow(look, layer, cell), head), look.memory_shapes);
}

/** @param {Float32Array[]} rows of every head @param {number} head */
const headOf = (rows, head) => (head < 0 ? meanOf(rows) : rows[head]);

/**
 * What a query answers after a decoder layer: its best class and its box.
 *
 * @param {Look} look @param {Model} model @param {number} layer @param {number} query
 * @returns {Detection}
 */
export function answerOf(look, model, layer, query) {
  const [, queries, width] = look.tensors.logits.shape;
  const row = layer * queries + query;
  const scores = probabilities(look.tensors.logits.data.subarray(row * width, (row + 1) * width), model.scoring);
  const label = largestAt(scores);
  const { name, category_id } = model.classes[label];
  const box_xyxy = inPixels(look.tensors.boxes_cxcywh.data, row * 4, look.width, look.height);
  return { query, label, name, category_id, score: scores[label], box_xyxy };
}

/** The box at which a query started; null for queries that have none. @param {Look} look @param {number} query @returns {Box|null} */
export function startOf(look, query) {
  const starts = look.tensors.starts_cxcywh;
  return starts ? inPixels(starts.data, query * 4, look.width, look.height) : null;
}
