/**
 * Attention of a look: rows of the weights are computed from queries and keys when they are shown, and become maps over
 * the picture as `explanation/maps.py` makes them.
 */

/** @typedef {import("../types.js").Look} Look */
/** @typedef {import("../types.js").Tensor} Tensor */
/** @typedef {import("../types.js").HeatMap} HeatMap */

/**
 * What a cell attends to in an encoder layer.
 *
 * @param {Look} look
 * @param {number} layer from 0
 * @param {number} cell
 * @returns {Float32Array[]} [heads][S], each of sum 1
 */
export function encoderRow(look, layer, cell) {
  const { encoder_query, encoder_key } = look.tensors;
  return heads(encoder_query, (head) => softmax(similarities(encoder_query, encoder_key, layer, head, cell)));
}

/**
 * Which cells attend to a cell in an encoder layer; unlike a row, a column has no fixed sum.
 *
 * @param {Look} look
 * @param {number} layer from 0
 * @param {number} cell
 * @returns {Float32Array[]} [heads][S]
 */
export function encoderColumn(look, layer, cell) {
  const { encoder_query, encoder_key } = look.tensors;
  const sums = logSums(look, layer);
  return heads(encoder_query, (head) =>
    // The other way round, keys ask and queries answer: one product for every row of the weights.
    similarities(encoder_key, encoder_query, layer, head, cell).map((value, row) => Math.exp(value - sums[head][row])),
  );
}

/**
 * What a query attends to in a decoder layer.
 *
 * @param {Look} look
 * @param {number} layer from 0
 * @param {number} query
 * @param {{focus?: boolean}} [options] whether the prior at the query's box counts, as in the model; `false` shows what
 *     its content alone would attend to
 * @returns {Float32Array[]} [heads][S], each of sum 1
 */
export function crossRow(look, layer, query, { focus = true } = {}) {
  const { cross_query, cross_key, focus: prior } = look.tensors;
  const cells = cross_key.shape[2];
  const start = (layer * cross_query.shape[2] + query) * cells;
  const added = focus && prior ? prior.data.subarray(start, start + cells) : undefined;
  return heads(cross_query, (head) => softmax(similarities(cross_query, cross_key, layer, head, query), added));
}

/**
 * The mean of the heads, or of any rows of one length.
 *
 * @param {Float32Array[]} rows
 * @returns {Float32Array}
 */
export function meanOf(rows) {
  return rows[0].map((_, at) => rows.reduce((sum, row) => sum + row[at], 0) / rows.length);
}

/**
 * Attention rollout of a query through all layers.
 *
 * @param {Look} look
 * @param {number} query
 * @returns {HeatMap}
 */
export function rolloutMap(look, query) {
  const { shape, data } = look.tensors.rollout;
  return onPicture(data.subarray(query * shape[1], (query + 1) * shape[1]), look.memory_shapes);
}

/**
 * Attention over cells as a map of the finest cells; it keeps the sum. A coarse cell's weight is spread evenly over the
 * fine cells in it.
 *
 * @param {Float32Array} row [S]
 * @param {[number, number][]} memoryShapes
 * @returns {HeatMap}
 */
export function onPicture(row, memoryShapes) {
  const [height, width] = memoryShapes[0];
  const data = new Float32Array(height * width);
  eachCell(memoryShapes, (cell, fine, share) => {
    data[fine] += row[cell] * share;
  });
  return { width, height, data };
}

/**
 * Values of cells, each of which stands by itself, as a map of the finest cells: the mean of a fine cell's own value and
 * of those of the coarse cells that it lies in. For columns of the weights, where `onPicture` is for rows.
 *
 * @param {Float32Array} values [S]
 * @param {[number, number][]} memoryShapes
 * @returns {HeatMap}
 */
export function atCells(values, memoryShapes) {
  const [height, width] = memoryShapes[0];
  const layers = memoryShapes.map(() => ({ sum: new Float64Array(height * width), share: new Float64Array(height * width) }));
  eachCell(memoryShapes, (cell, fine, share, map) => {
    layers[map].sum[fine] += values[cell] * share;
    layers[map].share[fine] += share;
  });
  const data = Float32Array.from({ length: height * width }, (_, fine) =>
    layers.reduce((total, { sum, share }) => total + sum[fine] / share[fine], 0) / layers.length,
  );
  return { width, height, data };
}

/**
 * The number of the finest cell at a point.
 *
 * @param {Look} look
 * @param {number} x in pixels of the picture
 * @param {number} y
 */
export function cellAt(look, x, y) {
  const [height, width] = look.memory_shapes[0];
  const at = (/** @type {number} */ place, /** @type {number} */ cells) =>
    Math.min(Math.max(Math.floor(place * cells), 0), cells - 1);
  return at(y / look.extent[1], height) * width + at(x / look.extent[0], width);
}

/**
 * @param {Tensor} tensor [L, heads, N, d]
 * @param {(head: number) => Float32Array} row
 */
function heads(tensor, row) {
  return Array.from({ length: tensor.shape[1] }, (_, head) => row(head));
}

/**
 * The products of one query with all keys.
 *
 * @param {Tensor} queries [L, heads, N, d]
 * @param {Tensor} keys [L, heads, M, d]
 * @param {number} layer
 * @param {number} head
 * @param {number} query
 */
function similarities(queries, keys, layer, head, query) {
  const [, numHeads, numKeys, width] = keys.shape;
  const from = ((layer * numHeads + head) * queries.shape[2] + query) * width;
  const start = (layer * numHeads + head) * numKeys * width;
  const found = new Float32Array(numKeys);
  for (let key = 0; key < numKeys; key++) {
    let sum = 0;
    for (let at = 0; at < width; at++) sum += queries.data[from + at] * keys.data[start + key * width + at];
    found[key] = sum;
  }
  return found;
}

/**
 * @param {Float32Array} values
 * @param {Float32Array} [added] to the values first
 */
function softmax(values, added) {
  if (added) values = values.map((value, at) => value + added[at]);
  const sum = logSum(values);
  return values.map((value) => Math.exp(value - sum));
}

/** @param {Float32Array} values the logarithm of the sum of their exponentials */
function logSum(values) {
  let largest = -Infinity;
  for (const value of values) largest = Math.max(largest, value);
  let sum = 0;
  for (const value of values) sum += Math.exp(value - largest);
  return largest + Math.log(sum);
}

/** @type {WeakMap<Look, Map<number, Float64Array[]>>} */
const known = new WeakMap();

/**
 * What every row of an encoder layer is divided by, as logarithms: a column needs those of all rows, which take long.
 *
 * @param {Look} look
 * @param {number} layer
 * @returns {Float64Array[]} [heads][S]
 */
function logSums(look, layer) {
  const ofLook = known.get(look) ?? new Map();
  known.set(look, ofLook);
  const { encoder_query, encoder_key } = look.tensors;
  if (!ofLook.has(layer)) {
    const sums = Array.from({ length: encoder_query.shape[1] }, (_, head) =>
      Float64Array.from({ length: encoder_query.shape[2] }, (_, cell) =>
        logSum(similarities(encoder_query, encoder_key, layer, head, cell)),
      ),
    );
    ofLook.set(layer, sums);
  }
  return ofLook.get(layer);
}

/**
 * Calls `use` with every cell of every map, each fine cell in it, and the share of the cell's weight that goes there.
 *
 * @param {[number, number][]} shapes
 * @param {(cell: number, fine: number, share: number, map: number) => void} use
 */
function eachCell(shapes, use) {
  const [height, width] = shapes[0];
  let start = 0;
  let [rows, columns] = [range(height), range(width)];
  shapes.forEach(([coarseHeight, coarseWidth], map) => {
    const [finerHeight, finerWidth] = shapes[Math.max(map - 1, 0)];
    rows = rows.map((row) => parent(row, finerHeight, coarseHeight));
    columns = columns.map((column) => parent(column, finerWidth, coarseWidth));
    const [down, across] = [spread(rows, coarseHeight), spread(columns, coarseWidth)];
    for (const [row, fineRow, downShare] of down) {
      for (const [column, fineColumn, acrossShare] of across) {
        use(start + row * coarseWidth + column, fineRow * width + fineColumn, downShare * acrossShare, map);
      }
    }
    start += coarseHeight * coarseWidth;
  });
}

/** @param {number} length */
function range(length) {
  return Array.from({ length }, (_, at) => at);
}

/**
 * The cell of the next map that a cell lies in. Backbones halve sides once or more, and round up or down.
 *
 * @param {number} cell
 * @param {number} fine cells along the side of its map
 * @param {number} coarse
 */
function parent(cell, fine, coarse) {
  let factor = 1;
  while (Math.floor(fine / factor) > coarse) factor *= 2;
  return Math.min(Math.floor(cell / factor), coarse - 1);
}

/**
 * Which shares of coarse cells go to which fine ones along a side; cells without a fine one go to the last.
 *
 * @param {number[]} parents the coarse cell of every fine one
 * @param {number} coarse
 * @returns {[number, number, number][]} coarse cell, fine cell, share
 */
function spread(parents, coarse) {
  const counts = new Array(coarse).fill(0);
  for (const cell of parents) counts[cell] += 1;
  /** @type {[number, number, number][]} */
  const shares = parents.map((cell, fine) => [cell, fine, 1 / counts[cell]]);
  counts.forEach((count, cell) => {
    if (count === 0) shares.push([cell, parents.length - 1, 1]);
  });
  return shares;
}
