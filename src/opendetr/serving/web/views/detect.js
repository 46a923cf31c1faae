/** What the model finds in a picture, from a file or a camera; over a box, what its query looked at. */

import { classColour } from "../colours.js";
import { button, element, newId } from "../elements.js";
import { queryMap } from "../maps.js";
import { Listing } from "./listing.js";
import { pictureButtons } from "./pictures.js";
import { Stage, under } from "./stage.js";
import { thresholdControl } from "./threshold.js";

/** @import { Context, Detection } from "../types.js" */

/** @param {HTMLElement} place @param {Context} context */
export function detect(place, context) {
  const { model, state, word, number, say, look, go } = context;
  /** @type {Detection|null} */
  let pointed = null; // by mouse or arrow keys

  const stage = new Stage(word("detect.stage"), (most) => word("stage.most", { most }), {
    hover: (point) => {
      const found = under(state.shown(), point);
      stage.canvas.style.cursor = found ? "pointer" : model.can_look && model.encoder_layers ? "crosshair" : "default";
      pointAt(found);
    },
    press: (point) => {
      const found = under(state.shown(), point);
      if (found || !model.can_look || !model.encoder_layers) return choose(found);
      state.set({ point, chosen: null });
      state.setInside({ kind: "pixel" });
      go("inside");
    },
  });
  const listing = new Listing(word("detect.list"), word("detect.none"), {
    walk: (at) => pointAt(at === null ? null : state.shown()[at]),
    choose: (at) => choose(at === null ? null : state.shown()[at]),
  });

  const pictures = pictureButtons(context, stage, drawAll);
  const empty = element("div", { class: "empty" }, element("p", {}, word("detect.drop")), element("p", { class: "quiet small" }, word("detect.labels")));
  const hint = element("p", { class: "quiet small" }, word(model.can_look ? "detect.hint" : "detect.no_look"));
  const count = element("span", { class: "quiet" });
  const inside = button(word("detect.inside"), () => {
    state.setInside({ kind: "query" });
    go("inside");
  }, { class: "strong" });
  const threshold = thresholdControl(context);
  const classes = element("div", { class: "classes", role: "group", "aria-label": word("detect.classes") });
  // Made once: a press and its release find the same box, whatever frames come meanwhile.
  const choices = model.classes.filter(({ category_id }) => category_id !== null).map(({ label, name }) => {
    const box = element("input", { type: "checkbox", id: newId("class"), onchange: () => {
      const next = new Set(state.values.hidden);
      if (!next.delete(label)) next.add(label);
      state.set({ hidden: next });
    } });
    const mark = element("span", { class: "mark", "aria-hidden": "true" });
    mark.style.background = classColour(label);
    const counted = element("span", { class: "digits quiet" });
    return { label, box, counted, element: element("label", { class: "check" }, box, mark, element("span", { class: "text" }, name), counted) };
  });
  classes.append(...choices.map((one) => one.element));
  const copy = button(word("detect.copy"), async () => {
    try {
      await navigator.clipboard.writeText(json()); // there is none on addresses such as http://192.168…
      say(word("detect.copied"));
    } catch {
      say(word("error.clipboard"), true);
    }
  });
  const save = button(word("detect.save"), () => {
    const address = URL.createObjectURL(new Blob([json()], { type: "application/json" }));
    element("a", { href: address, download: `${state.values.picture?.name.replace(/\.[^.]*$/, "") ?? "picture"}.json` }).click();
    URL.revokeObjectURL(address);
  });
  const results = element("div", {},
    element("section", { class: "panel" }, element("h2", {}, word("detect.list"), " ", count), listing.element,
      element("div", { class: "row" }, inside, copy, save)),
    element("section", { class: "panel" }, threshold.element, element("h3", { class: "later" }, word("detect.classes")), classes));
  place.append(element("div", { class: "bench" },
    element("div", {}, empty, stage.element, pictures.element, hint), results));

  /** @param {Detection|null} detection */
  function choose(detection) {
    state.set({ chosen: detection });
  }

  /** Shows the map of a query from now on. @param {Detection|null} detection */
  function pointAt(detection) {
    if (detection === pointed) return;
    pointed = detection;
    drawBoxes();
    void drawHeat();
  }

  async function drawHeat() {
    const { picture, chosen, inside: { opacity } } = state.values;
    const of = pointed ?? chosen;
    if (!picture || !of || !model.can_look || pictures.isLive()) return stage.show({ heat: null });
    const found = await look();
    if (!found || of !== (pointed ?? state.values.chosen) || picture !== state.values.picture) return; // pointed elsewhere meanwhile
    const map = queryMap(found, model.decoder_layers - 1, of.query, { head: -1, prior: true });
    stage.show({ heat: { map, extent: found.extent, opacity, title: word("detect.looked", { name: model.classes[of.label].name, query: of.query }) } });
  }

  function drawBoxes() {
    const shown = state.shown();
    const of = pointed ?? state.values.chosen;
    stage.show({ boxes: [...shown].reverse().sort((a, b) => Number(a === of) - Number(b === of)).map((one) => ({
      box: one.box_xyxy, colour: classColour(one.label), width: one === of ? 3 : 2, opacity: of && one !== of ? 0.35 : 1,
      text: one === of || (!of && stage.hasPlaceFor(shown.length)) ? `${model.classes[one.label].name} ${number(one.score, 2)}` : undefined,
    })) });
  }

  function drawList() {
    const shown = state.shown();
    const { chosen } = state.values;
    count.textContent = state.values.result ? number(shown.length) : "";
    listing.show(shown.map(({ label, score }) => ({ text: model.classes[label].name, value: number(score, 2), colour: classColour(label) })),
      chosen ? shown.indexOf(chosen) : -1);
    inside.hidden = !chosen || !model.can_look;
    copy.disabled = save.disabled = !shown.length;
  }

  function drawClasses() {
    const { result, hidden } = state.values;
    threshold.show();
    /** @type {Map<number, number>} */
    const counts = new Map();
    for (const { label, score } of result?.detections ?? []) if (score >= state.thresholdOf(label)) counts.set(label, (counts.get(label) ?? 0) + 1);
    for (const { label, box, counted } of choices) {
      box.checked = !hidden.has(label);
      counted.textContent = String(counts.get(label) ?? "");
    }
    if (pictures.isLive()) return; // nothing moves away under the pointer
    const ordered = [...choices].sort((a, b) => (counts.get(b.label) ?? 0) - (counts.get(a.label) ?? 0)).map((one) => one.element);
    if (ordered.every((one, place) => one === classes.children[place])) return;
    const had = /** @type {HTMLElement|null} */ (classes.contains(document.activeElement) ? document.activeElement : null);
    classes.replaceChildren(...ordered);
    had?.focus();
  }

  function json() {
    const { picture, result, threshold: all } = state.values;
    return JSON.stringify({
      picture: picture?.name, width: result?.width, height: result?.height, threshold: all ?? model.thresholds, detections: state.shown(),
    }, null, 2);
  }

  function drawAll() {
    const { picture } = state.values;
    const isLive = pictures.isLive();
    empty.hidden = Boolean(picture) || isLive;
    stage.element.hidden = !picture && !isLive;
    hint.hidden = !picture || isLive;
    results.hidden = !picture && !isLive;
    if (picture && !isLive) stage.show({ picture: picture.bitmap, width: picture.width, height: picture.height });
    drawShown();
  }

  function drawShown() {
    const { chosen } = state.values;
    if (chosen && !state.shown().includes(chosen)) return state.set({ chosen: null }); // which comes back here
    pointed = null;
    drawBoxes();
    drawList();
    drawClasses();
    void drawHeat();
  }

  drawAll();
  const ends = [state.listen(["picture"], drawAll), state.listen(["result", "threshold", "hidden", "chosen"], drawShown)];
  return () => {
    for (const end of ends) end();
    pictures.close();
    stage.close();
  };
}
