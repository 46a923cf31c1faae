/** The views in the order of the menu; a view's texts are `view.NAME` and `view.NAME.what` of words/. */

import { detect } from "./views/detect.js";
import { inside } from "./views/inside.js";
import { matching } from "./views/matching.js";

/** @type {import("./types.js").View[]} */
export const VIEWS = [
  { name: "detect", draw: detect },
  { name: "inside", draw: inside },
  { name: "matching", draw: matching },
];
