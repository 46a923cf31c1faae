/** The curves of a run, as SVG, which grow while it is trained. */

import { element, newId } from "../elements.js";

/** @import { Context, DataClient } from "../types.js" */

const EVERY = 3000; // milliseconds between looks at the log
/** The curves: where a line of the log has its value. @type {[string, string][]} */
const CURVES = [["loss", "loss"], ["val_AP", "ap"], ["val_AP50", "ap50"], ["matched_iou", "iou"]];

const [WIDTH, HEIGHT] = [360, 150];
const [LEFT, BOTTOM, TOP, RIGHT] = [44, 22, 8, 8];

/**
 * Asks for new lines of the log, again and again, and draws what they say; gives what ends that.
 *
 * @param {HTMLElement} place
 * @param {Pick<Context, "word"|"number"|"attempt"> & {data: DataClient}} context
 * @param {(run: Awaited<ReturnType<DataClient["run"]>>) => void} hear what the server says of the run, each time
 */
export function runCurves(place, { data, word, number, attempt }, hear) {
  let isOver = false;
  const curves = element("div", { class: "curves" });
  const told = element("p", { class: "small quiet" });
  place.append(told, curves);

  async function watch() {
    /** @type {Record<string, any>[]} */
    let lines = [];
    let after = 0;
    let isFirst = true;
    while (!isOver) {
      const found = await attempt(() => Promise.all([data.run(), data.log(after)]));
      if (isOver) return;
      if (found) {
        const [run, log] = found;
        if (log.reset) lines = [];
        lines.push(...log.lines);
        after = log.next;
        if (log.lines.length || log.reset || isFirst) draw(lines);
        hear(run);
        isFirst = false;
        if (log.lines.length) continue; // a long log comes in parts
      }
      await new Promise((resolve) => setTimeout(resolve, EVERY));
    }
  }

  /** @param {Record<string, any>[]} lines */
  function draw(lines) {
    const last = lines.at(-1);
    told.textContent = last
      ? word("learning.state", { epoch: number(last.epoch, 2), step: number(last.step ?? 0), minutes: number((last.seconds ?? 0) / 60, 1) })
      : word("learning.no_log");
    curves.replaceChildren(...CURVES.map(([name, key]) => {
      const points = lines.filter((line) => typeof line[name] === "number" && line[name] >= 0).map((line) => ({ x: line.epoch, y: line[name] }));
      return points.length ? drawCurve(word(`learning.curve_${key}`), word("learning.epochs"), points, (value) => number(value, Math.abs(value) < 10 ? 2 : 1)) : "";
    }));
  }

  void watch();
  return () => {
    isOver = true;
  };
}

/**
 * Values over epochs, with the last one in words.
 *
 * @param {string} title
 * @param {string} across what x is
 * @param {{x: number, y: number}[]} points at least one, x ascending
 * @param {(value: number) => string} shown a value in the reader's language
 */
function drawCurve(title, across, points, shown) {
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
