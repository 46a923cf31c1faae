/** A box that is drawn, moved and resized on a stage, with mouse, finger or keys. */

/**
 * @import { Box } from "../types.js"
 * @import { DrawnBox, Stage } from "./stage.js"
 *
 * @typedef {{x: number, y: number}} Point in pixels of the picture
 * @typedef {(to: Point) => void} Pull what a drag to a point does
 */

const GRIP = 14; // pixels of the page around a corner that take hold of it
const SMALLEST = 1; // pixel of the picture: no box is smaller
const FAR = 10; // pixels of a step with Alt
export const ACCENT = "#ff5bd0"; // no class has this colour

export class Editor {
  /**
   * @param {Stage} stage
   * @param {{origin: () => Point, size: () => {width: number, height: number}, changed: () => void}} listeners
   *     `origin`: what of the picture is at the stage's corner; `size`: of the picture
   */
  constructor(stage, { origin, size, changed }) {
    this.stage = stage;
    this.origin = origin;
    this.size = size;
    this.changed = changed;
    /** @type {Box|null} what is edited */
    this.box = null;
    this.isNew = false; // a drag beside the box begins another one
    /** @type {Pull|null} */
    this.drag = null;
    const { canvas } = stage;
    canvas.addEventListener("pointerdown", (event) => this.take(event));
    canvas.addEventListener("pointermove", (event) => this.pull(event));
    for (const name of /** @type {const} */ (["pointerup", "pointercancel"])) canvas.addEventListener(name, () => (this.drag = null));
  }

  /** @param {Box} box @param {boolean} [isNew] */
  begin(box, isNew = false) {
    this.box = box;
    this.isNew = isNew;
    this.stage.canvas.style.touchAction = "none"; // a finger draws, and does not scroll
    this.changed();
  }

  end() {
    this.box = null;
    this.drag = null;
    this.stage.canvas.style.touchAction = "";
    this.changed();
  }

  /** The box and its corners, as the stage draws them; in pixels of the picture. @returns {DrawnBox[]} */
  drawn() {
    if (!this.box) return [];
    const half = 4 / this.stage.ratio;
    return [{ box: this.box, colour: ACCENT, width: 3 }, ...cornersOf(this.box).map(({ x, y }) => (
      { box: /** @type {Box} */ ([x - half, y - half, x + half, y + half]), colour: ACCENT, width: 2 }))];
  }

  /** @param {PointerEvent} event @returns {Point} */
  pointOf(event) {
    const { left, top } = this.stage.canvas.getBoundingClientRect();
    const { x, y } = this.origin();
    return { x: x + (event.clientX - left) / this.stage.ratio, y: y + (event.clientY - top) / this.stage.ratio };
  }

  /** @param {PointerEvent} event */
  take(event) {
    if (!this.box || event.button) return;
    event.preventDefault();
    const at = this.pointOf(event);
    const near = cornersOf(this.box).findIndex(({ x, y }) => Math.max(Math.abs(x - at.x), Math.abs(y - at.y)) * this.stage.ratio <= GRIP);
    const [x1, y1, x2, y2] = this.box;
    const isInside = at.x >= x1 && at.x <= x2 && at.y >= y1 && at.y <= y2;
    if (near >= 0) {
      const opposite = cornersOf(this.box)[(near + 2) % 4];
      this.drag = (to) => this.set(between(opposite, to));
    } else if (isInside) {
      const from = this.box;
      this.drag = (to) => this.move(to.x - at.x, to.y - at.y, from);
    } else if (this.isNew) {
      this.drag = (to) => this.set(between(at, to));
    }
    if (this.drag) this.stage.canvas.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  pull(event) {
    this.drag?.(this.pointOf(event));
  }

  /**
   * Arrow keys move the box, with Shift they move its right and lower edge; Alt makes the steps larger. Whether it was one.
   *
   * @param {KeyboardEvent} event
   */
  press(event) {
    /** @type {Record<string, [number, number]>} */
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!this.box || !(event.key in arrows)) return false;
    const [x, y] = arrows[event.key].map((step) => step * (event.altKey ? FAR : 1));
    const [x1, y1, x2, y2] = this.box;
    if (event.shiftKey) this.set([x1, y1, Math.max(x1 + SMALLEST, x2 + x), Math.max(y1 + SMALLEST, y2 + y)]);
    else this.move(x, y);
    return true;
  }

  /**
   * Shifts the box, as far as its picture goes; its size stays.
   *
   * @param {number} dx
   * @param {number} dy
   * @param {Box|null} [from] the box before a drag
   */
  move(dx, dy, from = this.box) {
    if (!from) return;
    const { width, height } = this.size();
    const [x1, y1, x2, y2] = from;
    const x = clamp(round(dx), Math.min(-x1, 0), Math.max(width - x2, 0));
    const y = clamp(round(dy), Math.min(-y1, 0), Math.max(height - y2, 0));
    this.box = [x1 + x, y1 + y, x2 + x, y2 + y];
    this.changed();
  }

  /** Gives the box other corners: in its picture, and large enough to be a box. @param {Box} box */
  set([x1, y1, x2, y2]) {
    const { width, height } = this.size();
    const [left, top] = [clamp(round(x1), 0, width - SMALLEST), clamp(round(y1), 0, height - SMALLEST)];
    this.box = [left, top, clamp(round(x2), left + SMALLEST, width), clamp(round(y2), top + SMALLEST, height)];
    this.changed();
  }
}

const clamp = (/** @type {number} */ value, /** @type {number} */ least, /** @type {number} */ most) => Math.min(Math.max(value, least), most);
const round = (/** @type {number} */ value) => Math.round(value * 10) / 10;

/** From the upper left one, clockwise. @param {Box} box @returns {Point[]} */
const cornersOf = ([x1, y1, x2, y2]) => [{ x: x1, y: y1 }, { x: x2, y: y1 }, { x: x2, y: y2 }, { x: x1, y: y2 }];

/** @param {Point} one @param {Point} other @returns {Box} */
const between = (one, other) => [Math.min(one.x, other.x), Math.min(one.y, other.y), Math.max(one.x, other.x), Math.max(one.y, other.y)];
