/** A box that is drawn, moved and resized on a stage, with mouse, finger or keys. */

/**
 * @import { Box } from "../types.js"
 * @import { DrawnBox, Stage } from "./stage.js"
 *
 * @typedef {{x: number, y: number}} Point in pixels of the picture
 * @typedef {(box: Box, to: Point) => Box} Pull what a drag makes of a box that began as the given one
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
    Object.assign(this, { stage, origin, size, changed });
    this.stage = stage;
    this.origin = origin;
    this.size = size;
    this.changed = changed;
    /** @type {Box|null} what is edited */
    this.box = null;
    this.isNew = false; // a drag beside the box begins another one
    /** @type {{pull: Pull, from: Box}|null} */
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
      this.drag = { from: this.box, pull: (_, to) => between(opposite, to) };
    } else if (isInside) {
      this.drag = { from: this.box, pull: ([a, b, c, d], to) => [a + to.x - at.x, b + to.y - at.y, c + to.x - at.x, d + to.y - at.y] };
    } else if (this.isNew) {
      this.drag = { from: this.box, pull: (_, to) => between(at, to) };
    }
    if (this.drag) this.stage.canvas.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  pull(event) {
    if (!this.drag) return;
    this.set(this.drag.pull(this.drag.from, this.pointOf(event)));
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
    this.set(event.shiftKey ? [x1, y1, Math.max(x1 + SMALLEST, x2 + x), Math.max(y1 + SMALLEST, y2 + y)] : [x1 + x, y1 + y, x2 + x, y2 + y]);
    return true;
  }

  /** Keeps the box in its picture, and large enough to be one. @param {Box} box */
  set([x1, y1, x2, y2]) {
    const { width, height } = this.size();
    const [wide, tall] = [Math.min(Math.max(x2 - x1, SMALLEST), width), Math.min(Math.max(y2 - y1, SMALLEST), height)];
    if (this.drag && wide === this.drag.from[2] - this.drag.from[0] && tall === this.drag.from[3] - this.drag.from[1]) {
      x1 = Math.min(Math.max(x1, 0), width - wide);
      y1 = Math.min(Math.max(y1, 0), height - tall);
    }
    const left = Math.min(Math.max(x1, 0), width - SMALLEST);
    const top = Math.min(Math.max(y1, 0), height - SMALLEST);
    const round = (/** @type {number} */ value) => Math.round(value * 10) / 10;
    this.box = [round(left), round(top), round(Math.min(Math.max(left + SMALLEST, x1 + wide), width)), round(Math.min(Math.max(top + SMALLEST, y1 + tall), height))];
    this.changed();
  }
}

/** From the upper left one, clockwise. @param {Box} box @returns {Point[]} */
const cornersOf = ([x1, y1, x2, y2]) => [{ x: x1, y: y1 }, { x: x2, y: y1 }, { x: x2, y: y2 }, { x: x1, y: y2 }];

/** @param {Point} one @param {Point} other @returns {Box} */
const between = (one, other) => [Math.min(one.x, other.x), Math.min(one.y, other.y), Math.max(one.x, other.x), Math.max(one.y, other.y)];
