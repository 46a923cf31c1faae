/**
 * From the pixels of a picture to the model's input, number for number as Python makes it: the rules for sizes
 * (`data/sizes.py`), the antialiased resize of 8-bit pixels as torchvision and Pillow do it, and the normalisation.
 */

import { f32 } from "./boxes.js";

/**
 * @typedef {object} Preprocessing as `Preprocessing.to_json` writes it, with every value
 * @property {number} image_size
 * @property {number} max_size
 * @property {[number, number, number]} mean
 * @property {[number, number, number]} std
 * @property {number} multiple_of
 * @property {"official"|"transformers"|"nearest"|"down"} rounding
 * @property {"bilinear"|"bicubic"} resampling
 * @property {"torchvision"|"pillow"} resizer
 *
 * @typedef {object} Pixels a picture of 8 bits, row by row
 * @property {number} width
 * @property {number} height
 * @property {number} channels 3 (RGB) or 4 (RGBA, as a canvas gives it: the fourth is left out)
 * @property {Uint8Array|Uint8ClampedArray} data
 *
 * @typedef {object} Input
 * @property {number} width of the resized picture
 * @property {number} height
 * @property {Float32Array} data [3, height, width]
 */

/**
 * The model's input.
 *
 * @param {Pixels} picture
 * @param {Preprocessing} preprocessing
 * @returns {Input}
 */
export function preprocess(picture, preprocessing) {
  const [height, width] = inputShape(picture.height, picture.width, preprocessing);
  return normalise(resize(picture, height, width, preprocessing), preprocessing);
}

/**
 * Height and width of the model's input for a picture.
 *
 * @param {number} height
 * @param {number} width
 * @param {Preprocessing} preprocessing
 * @returns {[number, number]}
 */
export function inputShape(height, width, preprocessing) {
  const { image_size, max_size, rounding, multiple_of } = preprocessing;
  return snappedShape(...resizedShape(height, width, image_size, max_size, rounding), multiple_of);
}

/**
 * Height and width after a resize that keeps the aspect: the shorter side `size`, the longer at most `maxSize`.
 *
 * @param {number} height
 * @param {number} width
 * @param {number} size
 * @param {number} maxSize
 * @param {Preprocessing["rounding"]} rounding
 * @returns {[number, number]}
 */
export function resizedShape(height, width, size, maxSize, rounding) {
  const [shorter, longer] = [Math.min(height, width), Math.max(height, width)];
  if (rounding === "nearest" || rounding === "down") {
    const scale = Math.min(size / shorter, maxSize / longer);
    const toPixels = rounding === "nearest" ? roundHalfEven : Math.trunc;
    return [Math.max(1, toPixels(height * scale)), Math.max(1, toPixels(width * scale))];
  }
  let exact = size;
  if ((longer / shorter) * size > maxSize) {
    exact = (maxSize * shorter) / longer;
    size = roundHalfEven(exact);
  }
  size = Math.max(1, size);
  if (rounding === "official" || shorter === size) exact = size;
  const other = Math.max(1, Math.trunc((exact * longer) / shorter));
  return height <= width ? [size, other] : [other, size];
}

/**
 * Height and width as multiples, near the given ones and as nearly of their aspect ratio as that allows.
 *
 * @param {number} height
 * @param {number} width
 * @param {number} multiple
 * @returns {[number, number]}
 */
export function snappedShape(height, width, multiple) {
  if (multiple === 1) return [height, width];
  const around = [height, width].map((side) =>
    [-1, 0, 1, 2].map((step) => Math.max(1, Math.floor(side / multiple) + step) * multiple),
  );
  const misfit = (/** @type {number} */ h, /** @type {number} */ w) => {
    const aspect = Math.log(w / h) - Math.log(width / height);
    const area = Math.log(h * w) - Math.log(height * width);
    return Math.abs(aspect) + 0.15 * Math.abs(area);
  };
  let [best, least] = [/** @type {[number, number]} */ ([0, 0]), Infinity];
  for (const h of around[0]) {
    for (const w of around[1]) {
      if (misfit(h, w) < least) [best, least] = [[h, w], misfit(h, w)];
    }
  }
  return best;
}

/** @param {number} value */
function roundHalfEven(value) {
  const down = Math.floor(value);
  const rest = value - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down;
}

/**
 * An antialiased resize of 8-bit pixels, first along rows and then along columns, each rounded to 8 bits.
 *
 * @param {Pixels} picture
 * @param {number} height
 * @param {number} width
 * @param {Pick<Preprocessing, "resampling"|"resizer">} how
 * @returns {Pixels} of three channels
 */
export function resize(picture, height, width, { resampling, resizer }) {
  let rgb = withoutAlpha(picture);
  if (width !== picture.width) {
    const rows = { lines: picture.height, step: picture.width * 3, place: 3, lineTo: width * 3, placeTo: 3 };
    rgb = along(rgb, rows, weightsOf(picture.width, width, resampling, resizer), width * picture.height * 3);
  }
  if (height !== picture.height) {
    const columns = { lines: width, step: 3, place: width * 3, lineTo: 3, placeTo: width * 3 };
    rgb = along(rgb, columns, weightsOf(picture.height, height, resampling, resizer), width * height * 3);
  }
  return { width, height, channels: 3, data: rgb };
}

/** @param {Pixels} picture */
function withoutAlpha({ width, height, channels, data }) {
  if (channels === 3) return data;
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = data[from];
    rgb[to + 1] = data[from + 1];
    rgb[to + 2] = data[from + 2];
  }
  return rgb;
}

/**
 * @typedef {object} Weights whole numbers, so that sums are exact
 * @property {Int32Array} first the first pixel of every sum
 * @property {Int32Array} counts of the pixels of every sum
 * @property {Int32Array} values [length, most]
 * @property {number} most
 * @property {number} bits by which sums are shifted
 */

/**
 * The weights of the pixels of a line in those of the resized line.
 *
 * Both libraries widen the filter where they make a picture smaller, and round the weights to whole numbers: Pillow to
 * 22 bits, torchvision to as many as keep the largest within 16 bits.
 *
 * @param {number} from length of the line
 * @param {number} to
 * @param {Preprocessing["resampling"]} resampling
 * @param {Preprocessing["resizer"]} resizer
 * @returns {Weights}
 */
function weightsOf(from, to, resampling, resizer) {
  const [filter, radius] = resampling === "bilinear" ? [triangle, 1] : [cubic, 2];
  const scale = from / to;
  const wide = Math.max(scale, 1);
  const support = radius * wide;
  const most = Math.ceil(support) * 2 + 1;
  const [first, counts, shares] = [new Int32Array(to), new Int32Array(to), new Float64Array(to * most)];
  for (let at = 0; at < to; at++) {
    const centre = scale * (at + 0.5);
    first[at] = Math.max(Math.trunc(centre - support + 0.5), 0);
    counts[at] = Math.min(Math.min(Math.trunc(centre + support + 0.5), from) - first[at], most);
    let total = 0;
    for (let tap = 0; tap < counts[at]; tap++) {
      const share = filter((tap + first[at] - centre + 0.5) * (1 / wide));
      shares[at * most + tap] = share;
      total += share;
    }
    for (let tap = 0; tap < counts[at]; tap++) shares[at * most + tap] /= total;
  }
  const bits = resizer === "pillow" ? 22 : bitsFor(shares.reduce((a, b) => Math.max(a, b), 0));
  const values = Int32Array.from(shares, (share) => Math.trunc(share * 2 ** bits + (share < 0 ? -0.5 : 0.5)));
  return { first, counts, values, most, bits };
}

/** @param {number} largest weight */
function bitsFor(largest) {
  let bits = 0;
  while (bits < 22 && Math.trunc(0.5 + largest * 2 ** (bits + 1)) < 2 ** 15) bits += 1;
  return bits;
}

/** @param {number} x */
function triangle(x) {
  return Math.max(1 - Math.abs(x), 0);
}

/** @param {number} x Keys's cubic with a = -0.5 */
function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/**
 * @param {Uint8Array|Uint8ClampedArray} data
 * @param {{lines: number, step: number, place: number, lineTo: number, placeTo: number}} walk lines, and the distance
 *     of one line and of one pixel to the next, before and after
 * @param {Weights} weights
 * @param {number} size of the result
 */
function along(data, { lines, step, place, lineTo, placeTo }, { first, counts, values, most, bits }, size) {
  const found = new Uint8ClampedArray(size);
  const half = bits ? 1 << (bits - 1) : 0;
  for (let at = 0; at < first.length; at++) {
    for (let line = 0; line < lines; line++) {
      let red = half;
      let green = half;
      let blue = half;
      let from = line * step + first[at] * place;
      for (let tap = 0; tap < counts[at]; tap++, from += place) {
        const weight = values[at * most + tap];
        red += weight * data[from];
        green += weight * data[from + 1];
        blue += weight * data[from + 2];
      }
      const to = line * lineTo + at * placeTo;
      found[to] = red >> bits; // a clamped array keeps 0..255
      found[to + 1] = green >> bits;
      found[to + 2] = blue >> bits;
    }
  }
  return found;
}

/**
 * Pixels scaled to 0..1, minus the mean, over the standard deviation, in planes of one colour.
 *
 * @param {Pixels} picture of three channels
 * @param {Pick<Preprocessing, "mean"|"std">} numbers
 * @returns {Input}
 */
function normalise({ width, height, data }, { mean, std }) {
  const size = width * height;
  const planes = new Float32Array(3 * size);
  for (let channel = 0; channel < 3; channel++) {
    const table = Float32Array.from({ length: 256 }, (_, level) =>
      f32(f32(f32(level * f32(1 / 255)) - f32(mean[channel])) / f32(std[channel])),
    );
    for (let at = 0; at < size; at++) planes[channel * size + at] = table[data[at * 3 + channel]];
  }
  return { width, height, data: planes };
}
