/** A curve as SVG: values over epochs, with the last one in words. */

import { element, newId } from "../elements.js";

const [WIDTH, HEIGHT] = [360, 150];
const [LEFT, BOTTOM, TOP, RIGHT] = [44, 22, 8, 8];

/**
 * @param {string} title
 * @param {string} across what x is
 * @param {{x: number, y: number}[]} points at least one, x ascending
 * @param {(value: number) => string} shown a value in the reader's language
 */
export function drawCurve(title, across, points, shown) {
  const last = points[points.length - 1];
  const most = Math.max(...points.map(({ y }) => y)) || 1;
  const far = Math.max(...points.map(({ x }) => x)) || 1;
  const x = (/** @type {number} */ value) => LEFT + (value / far) * (WIDTH - LEFT - RIGHT);
  const y = (/** @type {number} */ value) => HEIGHT - BOTTOM - (value / most) * (HEIGHT - BOTTOM - TOP);
  const id = newId("curve");
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": id },
    ...[0, 0.5, 1].flatMap((share) => [
      svg("line", { class: "grid-line", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share * most), y2: y(share * most) }),
      svg("text", { x: LEFT - 6, y: y(share * most) + 4, "text-anchor": "end" }, shown(share * most)),
    ]),
    svg("text", { x: LEFT, y: HEIGHT - 5 }, "0"),
    svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 5, "text-anchor": "end" }, `${shown(far)} ${across}`),
    svg("polyline", { class: "curve", points: points.map((one) => `${x(one.x).toFixed(1)},${y(one.y).toFixed(1)}`).join(" ") }),
    svg("circle", { class: "dot", cx: x(last.x), cy: y(last.y), r: 3.5 }));
  return element("figure", { class: "panel" }, element("figcaption", { id }, element("strong", {}, title), " ",
    element("span", { class: "digits" }, shown(last.y))), picture);
}

/** @param {string} tag @param {Record<string, string|number>} attributes @param {...(Node|string)} children */
function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}
