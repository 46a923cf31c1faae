/** What the model finds in a picture. */

import { element } from "../elements.js";

/** @import { Context } from "../types.js" */

/** @param {HTMLElement} place @param {Context} context */
export function detect(place, { state, word, open }) {
  const input = element("input", { type: "file", accept: "image/*", onchange: () => {
    const [file] = input.files ?? [];
    if (file) void open(file, file.name);
  } });
  const canvas = element("canvas", { hidden: true });
  place.append(
    element("p", {}, word("detect.drop")),
    element("label", { class: "file strong" }, word("detect.choose"), input), canvas);

  function draw() {
    const { picture } = state.values;
    canvas.hidden = !picture;
    if (!picture) return;
    canvas.width = picture.width;
    canvas.height = picture.height;
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.drawImage(picture.bitmap, 0, 0);
    for (const { box_xyxy: [left, top, right, bottom] } of state.shown()) pen.strokeRect(left, top, right - left, bottom - top);
  }
  draw();
  return state.listen(["picture", "result", "thresholds", "hidden"], draw);
}
