/** Labels beside the picture: which query was matched to which object, at what cost, and why an object was missed. */

import { classColour, TRUTH } from "../colours.js";
import { button, element, fileButton } from "../elements.js";
import { answerOf } from "../maps.js";
import { inPixels } from "../model/boxes.js";
import { Listing } from "./listing.js";
import { needsPicture } from "./pictures.js";
import { REASONS } from "./reasons.js";
import { NARROW, Stage, under } from "./stage.js";
import { thresholdControl } from "./threshold.js";

/** @import { Candidate, Context, Matching } from "../types.js" */

/** @param {HTMLElement} place @param {Context} context */
export function matching(place, context) {
  const { client, model, state, word, number, attempt, receive, look, go } = context;
  if (!model.can_look) return void place.append(element("p", { class: "empty" }, word("inside.no_look")));
  if (needsPicture(place, context)) return state.listen(["picture"], () => go("matching"));

  /** @type {Matching|null} */
  let found = null;
  /** @type {number|null} the object, or the false alarm after the objects, that is looked at */
  let pointed = null;
  /** @type {number|null} */
  let chosen = null;

  const choose = () => fileButton(word("matching.choose"), receive, { accept: ".json,.txt,.xml" });
  const threshold = thresholdControl(context);
  const stage = new Stage(word("matching.stage"), (most) => most, {
    hover: (point) => point && pointAt(under(things(), point)?.at ?? null),
    press: (point) => select(under(things(), point)?.at ?? null),
  });
  const key = element("p", { class: "small quiet row" }, ...["truth", "answer", "line"].map((name) =>
    element("span", { class: "row" }, element("span", { class: `key key-${name}`, "aria-hidden": "true" }), word(`matching.key_${name}`))));
  const objects = new Listing(word("matching.objects"), word("matching.no_objects"), { walk: (at) => pointAt(at), choose: select });
  const alarms = new Listing(word("matching.alarms"), word("matching.no_alarms"), {
    walk: (at) => pointAt(at === null ? null : afterObjects(at)), choose: (at) => select(at === null ? null : afterObjects(at)),
  });
  const summary = element("p", { class: "sentence", role: "status" });
  const costs = element("section", { class: "panel" });
  const empty = element("div", { class: "panel" }, element("h2", {}, word("matching.labels")), element("p", {}, word("matching.drop")), choose());
  const panels = element("div", {},
    element("section", { class: "panel" }, element("h2", {}, word("matching.objects")), objects.element),
    element("section", { class: "panel" }, element("h2", {}, word("matching.alarms")), alarms.element),
    element("section", { class: "panel" }, threshold.element),
    element("section", { class: "panel" },
      element("p", {}, word("matching.from", { file: state.values.truthName || word("matching.data") })), choose()));
  place.append(element("div", { class: "bench" }, element("div", {}, stage.element, key, summary, costs), element("div", {}, empty, panels)));

  const afterObjects = (/** @type {number} */ at) => (found?.objects.length ?? 0) + at;
  /** All that can be pointed at. */
  const things = () => [...(found?.objects ?? []), ...(found?.false_alarms ?? [])].map(({ box_xyxy }, at) => ({ box_xyxy, at }));

  /** @param {number|null} at */
  function pointAt(at) {
    if (at === pointed) return;
    pointed = at;
    draw();
  }

  /** @param {number|null} at */
  function select(at) {
    chosen = at;
    drawLists();
    draw();
  }

  const nameOf = (/** @type {number} */ label) => model.classes[label].name;

  async function match() {
    const { picture, truth, threshold } = state.values;
    empty.hidden = Boolean(truth);
    panels.hidden = key.hidden = !truth;
    found = null;
    draw();
    if (!picture || !truth) return;
    summary.textContent = word("matching.working");
    const [answer] = await Promise.all([attempt(() => client.match(picture.blob, truth, threshold ?? undefined)), look()]);
    if (picture !== state.values.picture || truth !== state.values.truth || threshold !== state.values.threshold) return;
    found = answer ?? null;
    chosen = pointed = null;
    const first = found?.objects.findIndex(({ found_by }) => found_by === null) ?? -1;
    if (first >= 0) chosen = first; // what one came for
    drawLists();
    draw();
  }

  function drawLists() {
    if (!found) return;
    const missed = found.objects.filter(({ found_by }) => found_by === null).length;
    summary.textContent = word("matching.summary", { objects: found.objects.length, found: found.objects.length - missed, missed, alarms: found.false_alarms.length });
    objects.show(found.objects.map(({ label, found_by, reason }, at) => ({
      text: `${at + 1}. ${nameOf(label)}`, colour: classColour(label), value: found_by === null ? "✗" : "✓",
      note: found_by === null ? reasonOf(reason) : word("matching.found_by", { query: found_by }),
    })), chosen !== null && chosen < found.objects.length ? chosen : -1);
    alarms.show(found.false_alarms.map(({ name, score, kind }) => ({
      text: oneOf(name), value: number(score, 2), note: reasonOf(kind),
    })), chosen !== null && chosen >= found.objects.length ? chosen - found.objects.length : -1);
  }

  /** A class's name as the page writes it. @param {string} name */
  const oneOf = (name) => model.classes.find((one) => one.name === name)?.name ?? name;
  const verdictOf = (/** @type {{verdict: import("../types.js").Verdict}} */ { verdict }) => word(`verdict.${verdict.case}`, verdict.facts);
  const reasonOf = (/** @type {string|null} */ reason) => (reason && REASONS[reason] ? word(REASONS[reason]) : reason ?? "");

  async function draw() {
    const { picture } = state.values;
    if (!picture) return;
    const at = pointed ?? chosen;
    if (!found) {
      costs.hidden = true;
      const { truth } = state.values;
      return stage.show({ lines: [], boxes: (truth ?? []).map(({ label, box_xyxy }) => ({ box: box_xyxy, colour: TRUTH, dashed: true, text: nameOf(label) })) });
    }
    const { objects: all, false_alarms } = found;
    const seen = await look();
    if (!found || at !== (pointed ?? chosen)) return;
    const boxOf = (/** @type {number} */ query) =>
      (seen ? inPixels(seen.tensors.boxes_cxcywh.data, ((model.decoder_layers - 1) * model.num_queries + query) * 4, seen.width, seen.height) : null);
    /** @type {import("./stage.js").DrawnBox[]} */
    const boxes = [];
    /** @type {import("./stage.js").DrawnLine[]} */
    const lines = [];
    all.forEach(({ label, box_xyxy, taken_by, found_by }, place) => {
      const isAt = place === at;
      const faint = at !== null && !isAt;
      boxes.push({ box: box_xyxy, colour: TRUTH, dashed: true, width: isAt ? 3 : 2, opacity: faint ? 0.4 : 1, text: isAt || (at === null && stage.hasPlaceFor(all.length)) ? `${place + 1} ${nameOf(label)}` : undefined });
      const query = taken_by?.query ?? found_by;
      const answer = query === null || query === undefined ? null : boxOf(query);
      if (!answer || !seen || query === null || query === undefined) return;
      const own = answerOf(seen, model, model.decoder_layers - 1, query);
      boxes.push({ box: answer, colour: classColour(own.label), opacity: faint ? 0.25 : 1, below: true, text: isAt ? `${nameOf(own.label)} ${number(own.score, 2)}` : undefined });
      if (!faint) lines.push({ from: centre(box_xyxy), to: centre(answer), colour: found_by === null ? "#ff6b52" : "#7ee081" });
    });
    false_alarms.forEach(({ box_xyxy, name, score }, place) => {
      const isAt = all.length + place === at;
      boxes.push({ box: box_xyxy, colour: "#ff6b52", width: isAt ? 3 : 1, opacity: at !== null && !isAt ? 0.25 : 0.9, text: isAt ? `${oneOf(name)} ${number(score, 2)}` : undefined });
    });
    stage.show({ boxes, lines });
    // Under a list they would push it away from the pointer: there they wait until something is selected.
    drawCosts(NARROW.matches ? chosen : at);
  }

  /** What the object or false alarm is, and for an object what its candidates cost. @param {number|null} at */
  function drawCosts(at) {
    costs.hidden = !found;
    if (at === null || !found) return costs.replaceChildren(element("p", { class: "quiet" }, word("matching.point")));
    const object = found.objects[at];
    if (!object) {
      const alarm = found.false_alarms[at - found.objects.length];
      costs.replaceChildren(element("h2", {}, word("matching.alarm_title", { name: oneOf(alarm.name), score: number(alarm.score, 2) })),
        element("p", {}, verdictOf(alarm)), inside(alarm.query));
      return;
    }
    const candidates = [...(object.taken_by ? [object.taken_by] : []), ...object.runners_up];
    const row = (/** @type {Candidate} */ one, /** @type {boolean} */ isMatched) => element("tr", isMatched ? { class: "matched" } : {},
      element("th", { scope: "row" }, word("matching.query", { query: one.query }), isMatched ? element("span", { class: "badge" }, word("matching.matched")) : null),
      ...[one.class_cost, one.l1_cost, one.giou_cost, one.cost, one.iou].map((value) => element("td", { class: "digits" }, number(value, 2))),
      element("td", {}, oneOf(one.answer)), element("td", { class: "digits" }, number(one.score, 2)));
    costs.replaceChildren(
      element("h2", {}, word(object.found_by === null ? "matching.missed_title" : "matching.found_title", { number: at + 1, name: nameOf(object.label) })),
      ...(object.found_by === null ? [element("p", { class: "bad" }, element("strong", {}, reasonOf(object.reason)))] : []),
      element("p", {}, verdictOf(object)),
      element("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": word("matching.costs") }, element("table", {}, element("caption", {}, word("matching.costs_what")),
        element("thead", {}, element("tr", {}, ...["query", "class", "l1", "giou", "cost", "iou", "answer", "score"].map((name, place) =>
          element("th", { scope: "col", class: place && place !== 6 ? "digits" : "" }, word(`costs.${name}`))))),
        element("tbody", {}, ...candidates.map((one, place) => row(one, place === 0 && object.taken_by !== null))))),
      ...(object.taken_by ? [inside(object.taken_by.query)] : []));
  }

  /** Goes to what a query looked at. @param {number} query */
  function inside(query) {
    return button(word("matching.inside", { query }), async () => {
      const seen = await look();
      if (!seen) return;
      state.set({ chosen: state.shown().find((one) => one.query === query) ?? answerOf(seen, model, model.decoder_layers - 1, query) });
      state.setInside({ kind: "query" });
      go("inside");
    });
  }

  const { picture } = state.values;
  if (picture) stage.show({ picture: picture.bitmap, width: picture.width, height: picture.height });
  void match();
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  let soon;
  const ends = [
    state.listen(["picture", "truth"], () => go("matching")),
    state.listen(["threshold"], () => {
      threshold.show();
      clearTimeout(soon);
      soon = setTimeout(match, 200); // a slider tells many values
    }),
  ];
  return () => {
    for (const end of ends) end();
    clearTimeout(soon);
    stage.close();
  };
}

/** @param {import("../types.js").Box} box @returns {[number, number]} */
const centre = ([x1, y1, x2, y2]) => [(x1 + x2) / 2, (y1 + y2) / 2];
