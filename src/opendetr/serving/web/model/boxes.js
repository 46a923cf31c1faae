/**
 * Boxes: formats, IoU and GIoU, number for number as `boxes.py` has them. Python computes them in single precision, so
 * every operation here is rounded to it: else boxes at a threshold would be judged differently.
 */

/** @typedef {import("../types.js").Box} Box */

export const f32 = Math.fround;
const SMALLEST = f32(1e-20); // of a union: far below the area of any real box

/**
 * Centre and size to corners.
 *
 * @param {ArrayLike<number>} boxes
 * @param {number} [start] where the box begins in `boxes`
 * @returns {Box}
 */
export function cxcywhToXyxy(boxes, start = 0) {
  const [x, y, w, h] = [0, 1, 2, 3].map((at) => f32(boxes[start + at]));
  const [halfWidth, halfHeight] = [f32(w / 2), f32(h / 2)];
  return [f32(x - halfWidth), f32(y - halfHeight), f32(x + halfWidth), f32(y + halfHeight)];
}

/**
 * Corners to centre and size.
 *
 * @param {ArrayLike<number>} box
 * @returns {Box}
 */
export function xyxyToCxcywh(box) {
  const [x1, y1, x2, y2] = Array.from(box, f32);
  return [f32(f32(x1 + x2) / 2), f32(f32(y1 + y2) / 2), f32(x2 - x1), f32(y2 - y1)];
}

/**
 * A box in fractions of the picture as corners in its pixels.
 *
 * @param {ArrayLike<number>} boxesCxcywh
 * @param {number} start where the box begins
 * @param {number} width of the picture
 * @param {number} height
 * @returns {Box}
 */
export function inPixels(boxesCxcywh, start, width, height) {
  const [x1, y1, x2, y2] = cxcywhToXyxy(boxesCxcywh, start);
  return [f32(x1 * width), f32(y1 * height), f32(x2 * width), f32(y2 * height)];
}

/**
 * Corners in pixels of a picture as centre and size in fractions of it.
 *
 * @param {ArrayLike<number>} box
 * @param {number} width of the picture
 * @param {number} height
 * @returns {Box}
 */
export function inFractions(box, width, height) {
  return xyxyToCxcywh(Array.from(box, (value, at) => f32(f32(value) / (at % 2 ? height : width))));
}

/**
 * Intersection over union of two boxes (corners).
 *
 * @param {Box} one
 * @param {Box} other
 */
export function boxIou(one, other) {
  const { intersection, union } = areas(one, other);
  return f32(intersection / union);
}

/**
 * IoU minus the share of the smallest enclosing box that neither box covers.
 *
 * @param {Box} one
 * @param {Box} other
 */
export function generalizedBoxIou(one, other) {
  const { intersection, union, hull } = areas(one, other);
  return f32(f32(intersection / union) - f32(f32(hull - union) / hull));
}

/**
 * @param {Box} one
 * @param {Box} other
 */
function areas(one, other) {
  const [ax1, ay1, ax2, ay2] = one.map(finite);
  const [bx1, by1, bx2, by2] = other.map(finite);
  const between = (/** @type {number} */ low, /** @type {number} */ high) => Math.max(f32(high - low), 0);
  const intersection = f32(
    between(Math.max(ax1, bx1), Math.min(ax2, bx2)) * between(Math.max(ay1, by1), Math.min(ay2, by2)),
  );
  const first = f32(between(ax1, ax2) * between(ay1, ay2));
  const second = f32(between(bx1, bx2) * between(by1, by2));
  const union = Math.max(f32(f32(first + second) - intersection), SMALLEST);
  const around = f32(
    between(Math.min(ax1, bx1), Math.max(ax2, bx2)) * between(Math.min(ay1, by1), Math.max(ay2, by2)),
  );
  return { intersection, union, hull: Math.max(Math.max(around, SMALLEST), union) };
}

/** @param {number} value a coordinate; NaN and infinity become numbers whose products stay finite */
function finite(value) {
  return Number.isNaN(value) ? 0 : Math.min(Math.max(value, -1e9), 1e9);
}
