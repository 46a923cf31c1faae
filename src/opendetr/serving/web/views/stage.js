/** A picture with what is drawn over it: a heat map with its scale, boxes, lines and a point. */

import { ON_CLASS, heatColour } from "../colours.js";
import { element } from "../elements.js";

/**
 * @import { Box, HeatMap } from "../types.js"
 *
 * @typedef {object} DrawnBox
 * @property {Box} box in pixels of the picture
 * @property {string} colour
 * @property {string} [text] stands at its upper corner
 * @property {boolean} [below] it stands at the lower one
 * @property {number} [width] of its line, 2 without it
 * @property {boolean} [dashed]
 * @property {number} [opacity]
 *
 * @typedef {object} DrawnLine
 * @property {[number, number]} from
 * @property {[number, number]} to
 * @property {string} colour
 *
 * @typedef {object} DrawnHeat
 * @property {HeatMap} map
 * @property {[number, number]} extent in pixels of the picture
 * @property {number} opacity
 * @property {string} title of the scale
 *
 * @typedef {object} Drawn
 * @property {ImageBitmap|HTMLVideoElement|null} picture
 * @property {number} width of the picture
 * @property {number} height
 * @property {DrawnBox[]} boxes the last on top
 * @property {DrawnLine[]} lines
 * @property {DrawnHeat|null} heat
 * @property {{x: number, y: number}|null} point
 */

const TALLEST = 0.72; // of the window's height
const TALLEST_ABOVE = 0.45; // where the picture stays in sight above all else
export const NARROW = matchMedia("(max-width: 60rem)"); // as in style.css: lists stand under the picture
const LETTERS = "600 13px system-ui, sans-serif";
const SHADE = "rgb(0 0 0 / 0.55)"; // around lines, which are seen on any picture by it

export class Stage {
  /**
   * @param {string} label what it shows, for who does not see it
   * @param {(share: string) => string} most names the top of the scale
   * @param {{hover?: (point: {x: number, y: number}|null) => void, press?: (point: {x: number, y: number}) => void}} [listeners]
   *     called with points in pixels of the picture
   */
  constructor(label, most, { hover, press } = {}) {
    this.most = most;
    this.canvas = element("canvas", { role: "img", "aria-label": label });
    this.scale = element("div", { class: "scale off" });
    this.element = element("figure", { class: "stage" }, this.canvas, this.scale);
    /** @type {Drawn} */
    this.drawn = { picture: null, width: 1, height: 1, boxes: [], lines: [], heat: null, point: null };
    this.ratio = 1; // of pixels of the page to those of the picture
    this.waiting = false;
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.element);
    const pointOf = (/** @type {PointerEvent} */ event) => {
      const { left, top } = this.canvas.getBoundingClientRect();
      return { x: (event.clientX - left) / this.ratio, y: (event.clientY - top) / this.ratio };
    };
    if (hover) {
      this.canvas.addEventListener("pointermove", (event) => hover(pointOf(event)));
      this.canvas.addEventListener("pointerleave", () => hover(null));
    }
    if (press) this.canvas.addEventListener("click", (event) => press(pointOf(/** @type {PointerEvent} */ (event))));
  }

  /** Shows something else; what is not named stays. @param {Partial<Drawn>} changes */
  show(changes) {
    Object.assign(this.drawn, changes);
    if ("heat" in changes) this.showScale();
    if ("width" in changes || "height" in changes) this.fit();
    else this.redraw();
  }

  /** Whether the names of so many boxes find a place. @param {number} count */
  hasPlaceFor(count) {
    return count <= this.element.clientWidth / 25;
  }

  close() {
    this.sizes.disconnect();
    this.drawn.picture = null; // which may be gone before the next frame
    document.documentElement.style.scrollPaddingTop = "";
  }

  /** The picture as large as there is place. */
  fit() {
    const { width, height } = this.drawn;
    const place = this.element.clientWidth;
    if (!place) return;
    this.ratio = Math.min(place / width, ((NARROW.matches ? TALLEST_ABOVE : TALLEST) * innerHeight) / height);
    const dots = devicePixelRatio || 1;
    Object.assign(this.canvas.style, { width: `${width * this.ratio}px`, height: `${height * this.ratio}px` });
    Object.assign(this.canvas, { width: Math.round(width * this.ratio * dots), height: Math.round(height * this.ratio * dots) });
    // What is scrolled to, by keys or by a script, does not end under it.
    document.documentElement.style.scrollPaddingTop = NARROW.matches ? `${this.element.offsetHeight}px` : "";
    this.redraw();
  }

  /** Draws before the next frame, once for all changes until then. */
  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    const { picture, width, height, boxes, lines, heat, point } = this.drawn;
    const dots = this.canvas.width / (width * this.ratio);
    pen.setTransform(dots, 0, 0, dots, 0, 0); // from here in pixels of the page
    pen.clearRect(0, 0, width * this.ratio, height * this.ratio);
    if (!picture) return;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, 0, 0, width * this.ratio, height * this.ratio);
    if (heat) this.drawHeat(pen, heat);
    for (const { from, to, colour } of lines) this.stroke(pen, colour, 2, () => {
      pen.moveTo(from[0] * this.ratio, from[1] * this.ratio);
      pen.lineTo(to[0] * this.ratio, to[1] * this.ratio);
    });
    for (const { box, colour, width: wide = 2, dashed, opacity = 1 } of boxes) {
      const [x1, y1, x2, y2] = box.map((value) => value * this.ratio);
      pen.globalAlpha = opacity;
      pen.setLineDash(dashed ? [6, 5] : []);
      this.stroke(pen, colour, wide, () => pen.rect(x1, y1, x2 - x1, y2 - y1));
      pen.setLineDash([]);
      pen.globalAlpha = 1;
    }
    for (const one of boxes) if (one.text) this.write(pen, one, one.text);
    if (point) this.cross(pen, point.x * this.ratio, point.y * this.ratio);
  }

  /** @param {CanvasRenderingContext2D} pen @param {DrawnHeat} heat */
  drawHeat(pen, { map, extent, opacity }) {
    const cells = new OffscreenCanvas(map.width, map.height);
    const ink = /** @type {OffscreenCanvasRenderingContext2D} */ (cells.getContext("2d"));
    ink.putImageData(new ImageData(pixelsOf(map, true), map.width, map.height), 0, 0);
    pen.save();
    pen.beginPath();
    pen.rect(0, 0, this.drawn.width * this.ratio, this.drawn.height * this.ratio);
    pen.clip(); // the last cells may reach beyond the picture
    pen.globalAlpha = opacity;
    pen.drawImage(cells, 0, 0, extent[0] * this.ratio, extent[1] * this.ratio);
    pen.restore();
  }

  /** @param {CanvasRenderingContext2D} pen @param {string} colour @param {number} width @param {() => void} path */
  stroke(pen, colour, width, path) {
    for (const [ink, wide] of /** @type {[string, number][]} */ ([[SHADE, width + 2], [colour, width]])) {
      pen.beginPath();
      path();
      pen.lineWidth = wide;
      pen.strokeStyle = ink;
      pen.stroke();
    }
  }

  /** A text above a box, or in it where there is no place above. @param {CanvasRenderingContext2D} pen @param {DrawnBox} drawn @param {string} text */
  write(pen, { box, colour, opacity = 1, below }, text) {
    pen.font = LETTERS;
    const [wide, tall] = [pen.measureText(text).width + 8, 18];
    const [right, bottom] = [this.drawn.width * this.ratio, this.drawn.height * this.ratio];
    const x = Math.max(0, Math.min(box[0] * this.ratio - 1, right - wide));
    const above = box[1] * this.ratio - tall - 1;
    const y = below ? Math.min(box[3] * this.ratio + 1, bottom - tall) : Math.min(above >= 0 ? above : Math.max(0, box[1] * this.ratio + 1), bottom - tall);
    pen.globalAlpha = opacity;
    pen.fillStyle = colour;
    pen.fillRect(x, y, wide, tall);
    pen.fillStyle = ON_CLASS;
    pen.textBaseline = "middle";
    pen.fillText(text, x + 4, y + tall / 2 + 0.5);
    pen.globalAlpha = 1;
  }

  /** @param {CanvasRenderingContext2D} pen @param {number} x @param {number} y */
  cross(pen, x, y) {
    this.stroke(pen, "#ffffff", 2, () => {
      pen.moveTo(x - 12, y); pen.lineTo(x - 4, y); pen.moveTo(x + 4, y); pen.lineTo(x + 12, y);
      pen.moveTo(x, y - 12); pen.lineTo(x, y - 4); pen.moveTo(x, y + 4); pen.lineTo(x, y + 12);
    });
  }

  /** The colours of the heat map and what they mean. */
  showScale() {
    const { heat } = this.drawn;
    this.scale.classList.toggle("off", !heat); // it keeps its place: a list under it would slip from the pointer
    if (!heat) return;
    const bar = element("canvas", { width: 128, height: 1, "aria-hidden": "true" });
    const map = { width: 128, height: 1, data: Float32Array.from({ length: 128 }, (_, at) => at) };
    /** @type {CanvasRenderingContext2D} */ (bar.getContext("2d")).putImageData(new ImageData(pixelsOf(map), 128, 1), 0, 0);
    const most = heat.map.data.reduce((a, b) => Math.max(a, b), 0);
    this.scale.replaceChildren(element("span", { class: "scale-title" }, heat.title),
      element("span", { class: "row" }, element("span", { class: "digits" }, "0"), bar,
        element("span", { class: "digits" }, this.most(`${(100 * most).toPrecision(2)} %`))));
  }
}

/**
 * A heat map's colours; its largest value is the top of the scale.
 *
 * @param {HeatMap} map
 * @param {boolean} [seeThrough] where little is, what lies under it is seen
 * @returns {Uint8ClampedArray<ArrayBuffer>}
 */
export function pixelsOf({ width, height, data }, seeThrough = false) {
  const most = data.reduce((a, b) => Math.max(a, b), 0) || 1;
  const pixels = new Uint8ClampedArray(4 * width * height);
  data.forEach((value, at) => pixels.set([...heatColour(value / most), 255 * (seeThrough ? 0.4 + 0.6 * (value / most) : 1)], 4 * at));
  return pixels;
}

/**
 * What lies under a point: the smallest box around it.
 *
 * @template {{box_xyxy: Box}} T
 * @param {T[]} things
 * @param {{x: number, y: number}|null} point
 * @returns {T|null}
 */
export function under(things, point) {
  if (!point) return null;
  const area = (/** @type {T} */ { box_xyxy: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  const around = things.filter(({ box_xyxy: [x1, y1, x2, y2] }) => point.x >= x1 && point.x <= x2 && point.y >= y1 && point.y <= y2);
  return around.sort((a, b) => area(a) - area(b))[0] ?? null;
}
