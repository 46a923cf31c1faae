/** Small plots of a query: its maps of all layers and heads, and where it answered on the last pictures. */

import { ON_CLASS } from "../colours.js";
import { pixelsOf } from "./stage.js";

/** @import { Box, HeatMap } from "../types.js" */

const GAP = 4;

/**
 * Maps side by side: a row per layer, a column per head.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {HeatMap[][]} maps
 * @param {{layer: number, head: number}|null} shown has a frame; head -1: its whole row
 * @param {(row: number, column: number) => string} name of a map
 */
export function drawMosaic(canvas, maps, shown, name) {
  const dots = devicePixelRatio || 1;
  const { width: cells, height: rows } = maps[0][0];
  const columns = maps[0].length;
  const wide = Math.min(220, (Math.max(canvas.parentElement?.clientWidth ?? 0, 240) - 40) / columns - GAP);
  const tall = Math.min((wide * rows) / cells, 220);
  const size = { width: columns * (wide + GAP) + GAP, height: maps.length * (tall + GAP) + GAP };
  Object.assign(canvas.style, { width: `${size.width}px`, height: `${size.height}px` });
  Object.assign(canvas, { width: size.width * dots, height: size.height * dots });
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.scale(dots, dots);
  const accent = getComputedStyle(canvas).color;
  maps.forEach((line, row) => line.forEach((map, column) => {
    const [x, y] = [GAP + column * (wide + GAP), GAP + row * (tall + GAP)];
    const one = new OffscreenCanvas(map.width, map.height);
    /** @type {OffscreenCanvasRenderingContext2D} */ (one.getContext("2d")).putImageData(new ImageData(pixelsOf(map), map.width, map.height), 0, 0);
    pen.drawImage(one, x, y, wide, tall);
    if (wide > 60) {
      pen.font = "11px system-ui, sans-serif";
      pen.textBaseline = "top";
      pen.lineWidth = 3;
      pen.strokeStyle = ON_CLASS;
      pen.fillStyle = "#ffffff";
      pen.strokeText(name(row, column), x + 4, y + 4);
      pen.fillText(name(row, column), x + 4, y + 4);
    }
    if (shown?.layer === row && (shown.head === column || shown.head < 0)) {
      pen.lineWidth = 2;
      pen.strokeStyle = accent;
      pen.strokeRect(x - 2, y - 2, wide + 4, tall + 4);
    }
  }));
}

/**
 * The map of a mosaic that was clicked.
 *
 * @param {HTMLCanvasElement} canvas @param {MouseEvent} event @param {number} layers @param {number} heads
 */
export function mosaicAt(canvas, event, layers, heads) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const at = (/** @type {number} */ share, /** @type {number} */ count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
  return { layer: at((event.clientY - top) / height, layers), head: at((event.clientX - left) / width, heads) };
}

/**
 * Boxes of several pictures in one unit square: the newest is the boldest.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{box: Box, width: number, height: number, colour: string}[]} answers
 */
export function drawSlot(canvas, answers) {
  const dots = devicePixelRatio || 1;
  const side = 200;
  Object.assign(canvas.style, { width: `${side}px`, height: `${side}px` });
  Object.assign(canvas, { width: side * dots, height: side * dots });
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.scale(dots, dots);
  pen.strokeStyle = getComputedStyle(canvas).color;
  pen.globalAlpha = 0.25;
  for (let at = 1; at < 4; at++) {
    pen.strokeRect((at * side) / 4, -1, 0, side + 2);
    pen.strokeRect(-1, (at * side) / 4, side + 2, 0);
  }
  answers.forEach(({ box, width, height, colour }, at) => {
    const [x1, y1, x2, y2] = box.map((value, place) => (value * side) / (place % 2 ? height : width));
    pen.globalAlpha = 0.4 + (0.6 * (at + 1)) / answers.length;
    pen.fillStyle = pen.strokeStyle = colour;
    pen.lineWidth = at === answers.length - 1 ? 2 : 1;
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    pen.beginPath();
    pen.arc((x1 + x2) / 2, (y1 + y2) / 2, at === answers.length - 1 ? 4 : 2.5, 0, 7);
    pen.fill();
  });
  pen.globalAlpha = 1;
}
