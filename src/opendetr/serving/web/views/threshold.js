/** The slider of the threshold, and the button that goes back to the model's own thresholds, one per class. */

import { button, element, slider } from "../elements.js";

/** @import { Context } from "../types.js" */

/** @param {Context} context */
export function thresholdControl({ model, state, word, number }) {
  const { thresholds } = model;
  const middle = thresholds.reduce((a, b) => a + b, 0) / thresholds.length;
  const [least, most] = [Math.min(...thresholds), Math.max(...thresholds)];
  const bar = slider(word("threshold.slider"), {
    min: 0.05, max: 0.95, step: 0.01, value: middle,
    shown: (value) => number(value, 2),
    change: (value) => state.set({ threshold: value }),
  });
  const range = least === most ? number(least, 2) : `${number(least, 2)} – ${number(most, 2)}`;
  const own = button(word("threshold.own", { value: range }), () => state.set({ threshold: null }));
  const show = () => {
    bar.set(state.values.threshold ?? middle);
    own.setAttribute("aria-pressed", String(state.values.threshold === null));
  };
  show();
  return { element: element("div", {}, bar.field, own), show };
}
