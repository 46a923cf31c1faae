/** Colours of classes and of heat maps. Those of classes are light, so that dark letters can stand on all of them. */

const CLASSES = ["#5cc8ff", "#ffb347", "#7ee081", "#ff8fab", "#c9a6ff", "#ffe066", "#4fe0d0", "#ff9d76", "#b8d8ff", "#d4f06a", "#f5a3ff", "#e0c097"];
export const ON_CLASS = "#14191b"; // letters on a colour of a class
export const TRUTH = "#ffffff";

/** @param {number} label */
export const classColour = (label) => CLASSES[label % CLASSES.length];

// From dark to light in even steps of lightness (matplotlib's "inferno", CC0), so that order is seen without hue too.
const SCALE = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"].map(
  (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));

/** Red, green and blue, 0..255, of a value of 0..1. @param {number} value @returns {[number, number, number]} */
export function heatColour(value) {
  const place = Math.min(Math.max(value, 0), 1) * (SCALE.length - 1);
  const low = Math.min(Math.floor(place), SCALE.length - 2);
  const [r, g, b] = SCALE[low].map((from, channel) => from + (SCALE[low + 1][channel] - from) * (place - low));
  return [r, g, b];
}
