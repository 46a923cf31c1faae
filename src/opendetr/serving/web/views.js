/** The views in the order of the menu; a view's texts are `view.NAME` and `view.NAME.what` of words/. */

import { detect } from "./views/detect.js";
import { gallery } from "./views/gallery.js";
import { inside } from "./views/inside.js";
import { learning } from "./views/learning.js";
import { matching } from "./views/matching.js";
import { review } from "./views/review.js";

/** @type {NonNullable<import("./types.js").View["offered"]>} */
const hasData = ({ data }, model) => data !== undefined && (model.data?.splits ?? []).some(({ pictures }) => pictures > 0);

/** @type {import("./types.js").View[]} */
export const VIEWS = [
  { name: "detect", draw: detect },
  { name: "inside", draw: inside },
  { name: "matching", draw: matching },
  { name: "gallery", draw: gallery, offered: hasData },
  { name: "review", draw: review, offered: hasData },
  { name: "learning", draw: learning, offered: ({ data }, { run }) => data !== undefined && run !== null },
];
