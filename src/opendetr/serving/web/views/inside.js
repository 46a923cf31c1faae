/** Inside the model: what a query looked at and how its box moved, what a pixel sees and who reads it. */

import { classColour, TRUTH } from "../colours.js";
import { element, labelled, newId, slider } from "../elements.js";
import { answerOf, pixelMap, queryMap, startOf } from "../maps.js";
import { rolloutMap } from "../model/attention.js";
import { boxIou } from "../model/boxes.js";
import { Listing } from "./listing.js";
import { needsPicture } from "./pictures.js";
import { drawMosaic, drawSlot, mosaicAt } from "./plots.js";
import { Stage, under } from "./stage.js";

/** @import { Context, Detection, HeatMap, Look } from "../types.js" */
/** @import { Inside } from "../state.js" */

/** @param {HTMLElement} place @param {Context} context */
export function inside(place, context) {
  const { model, state, word, number, look } = context;
  if (!model.can_look) return void place.append(element("p", { class: "empty" }, word("inside.no_look")));
  if (needsPicture(place, context)) return state.listen(["picture"], () => context.go("inside"));

  /** @type {Look|undefined} */
  let seen;
  /** @type {Detection|null} */
  let pointed = null;
  const hasEncoder = model.encoder_layers > 0;
  const ofPixel = () => ["pixel", "readers"].includes(state.values.inside.kind);
  const detection = () => pointed ?? state.values.chosen;

  const stage = new Stage(word("inside.stage"), (most) => word("stage.most", { most }), {
    hover: (point) => {
      if (!ofPixel()) pointAt(under(state.shown(), point));
      stage.canvas.style.cursor = ofPixel() ? "crosshair" : pointed ? "pointer" : hasEncoder ? "crosshair" : "default";
    },
    press: (point) => {
      const found = ofPixel() ? null : under(state.shown(), point);
      if (found) return state.set({ chosen: found });
      if (!hasEncoder) return;
      if (!ofPixel()) state.setInside({ kind: "pixel" });
      state.set({ point });
    },
  });
  const listing = new Listing(word("inside.list"), word("inside.none"), {
    walk: (at) => pointAt(at === null ? null : state.shown()[at]),
    choose: (at) => state.set({ chosen: at === null ? null : state.shown()[at] }),
  });

  const kinds = element("fieldset", { class: "segments" }, element("legend", { class: "hidden" }, word("inside.kind")),
    ...(/** @type {Inside["kind"][]} */ (["query", "rollout", "pixel", "readers"])).filter((kind) => hasEncoder || !["pixel", "readers"].includes(kind)).map((kind) => {
      const input = element("input", { type: "radio", name: "kind", value: kind, id: newId("kind"), onchange: () => state.setInside({ kind }) });
      return element("label", { for: input.id }, input, element("span", {}, word(`inside.${kind}`)));
    }));
  const layers = slider(word("inside.layer"), {
    min: 1, max: Math.max(model.decoder_layers, 1), value: state.values.inside.layer + 1,
    shown: (value) => word("inside.layer_of", { number: value, of: ofPixel() ? model.encoder_layers : model.decoder_layers }),
    change: (value) => state.setInside(ofPixel() ? { encoderLayer: value - 1 } : { layer: value - 1 }),
  });
  const heads = slider(word("inside.head"), {
    min: 0, max: model.heads, value: state.values.inside.head + 1,
    shown: (value) => (value ? word("inside.head_of", { number: value, of: model.heads }) : word("inside.mean")),
    change: (value) => state.setInside({ head: value - 1 }),
  });
  const opacity = slider(word("inside.opacity"), {
    min: 0, max: 1, step: 0.05, value: state.values.inside.opacity,
    shown: (value) => `${number(100 * value)} %`,
    change: (value) => state.setInside({ opacity: value }),
  });
  const prior = element("input", { type: "checkbox", checked: state.values.inside.prior, onchange: () => state.setInside({ prior: prior.checked }) });
  const priorField = element("label", { class: "check" }, prior, element("span", {}, word("inside.prior")));
  const [across, down] = ["x", "y"].map((axis) => element("input", { type: "number", min: "0", step: "1", onchange: () => {
    const { picture, point } = state.values;
    if (!picture) return;
    const most = axis === "x" ? picture.width : picture.height;
    const value = Math.min(Math.max(Number((axis === "x" ? across : down).value) || 0, 0), most - 1);
    state.set({ point: { x: picture.width / 2, y: picture.height / 2, ...point, [axis]: value } });
  } }));
  const pixel = element("div", { class: "row" }, labelled(word("inside.x"), across), labelled(word("inside.y"), down));
  const queryNumber = element("input", { type: "number", min: "0", max: String(model.num_queries - 1), step: "1", onchange: () => {
    const query = Math.min(Math.max(Math.round(Number(queryNumber.value)) || 0, 0), model.num_queries - 1);
    if (seen) state.set({ chosen: state.shown().find((one) => one.query === query) ?? answerOf(seen, model, model.decoder_layers - 1, query) });
  } });

  const mosaic = element("canvas", { class: "mosaic", role: "img", onclick: (/** @type {MouseEvent} */ event) => {
    state.setInside({ ...mosaicAt(mosaic, event, model.decoder_layers, model.heads), kind: "query" });
  } });
  const mosaicPanel = element("section", { class: "panel last" }, element("h2", {}, word("inside.mosaic")),
    element("p", { class: "quiet small" }, word("inside.mosaic_what")), mosaic);
  const steps = element("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": word("inside.steps") });
  const stepsPanel = element("section", { class: "panel" }, element("h2", {}, word("inside.steps")), steps);
  const slot = element("canvas", { class: "slot", role: "img" });
  const slotText = element("p", { class: "small" });
  const slotPanel = element("section", { class: "panel" }, element("h2", {}, word("inside.slot")), slotText, slot);
  const nothing = element("p", { class: "quiet" }, word("inside.choose"));
  const sentence = element("p", { role: "status", class: "sentence" });

  place.append(element("div", { class: "bench" },
    element("div", {}, stage.element, sentence, mosaicPanel),
    element("div", {},
      element("section", { class: "panel" }, kinds, pixel, layers.field, heads.field, priorField, opacity.field),
      element("section", { class: "panel" }, element("h2", {}, word("inside.list")), listing.element, labelled(word("inside.number"), queryNumber)),
      nothing, stepsPanel, slotPanel)));

  /** @param {Detection|null} found */
  function pointAt(found) {
    if (found === pointed) return;
    pointed = found;
    drawPicture();
    drawQuery();
  }

  /** The heat map of what is asked for, and the words for it. @returns {{map: HeatMap|null, title: string}} */
  function asked() {
    const { inside: { kind, layer, encoderLayer, head, prior: withPrior }, point } = state.values;
    const of = detection();
    const who = head < 0 ? word("inside.mean") : word("inside.head_of", { number: head + 1, of: model.heads });
    if (ofPixel()) {
      if (!seen || !point) return { map: null, title: word("inside.click") };
      const readers = kind === "readers";
      return {
        map: pixelMap(seen, encoderLayer, point, { head, readers }),
        title: word(readers ? "inside.readers_title" : "inside.pixel_title", { x: Math.round(point.x), y: Math.round(point.y), layer: encoderLayer + 1, who }),
      };
    }
    if (!seen || !of) return { map: null, title: word("inside.choose") };
    const name = model.classes[of.label].name;
    if (kind === "rollout") return { map: rolloutMap(seen, of.query), title: word("inside.rollout_title", { query: of.query, name }) };
    return {
      map: queryMap(seen, layer, of.query, { head, prior: withPrior }),
      title: word("inside.query_title", { query: of.query, name, layer: layer + 1, who }),
    };
  }

  function drawPicture() {
    const { picture, inside: { layer, opacity: thick, kind }, point } = state.values;
    if (!picture) return;
    const { map, title } = asked();
    sentence.textContent = seen ? title : word("inside.working");
    const of = ofPixel() ? null : detection();
    stage.show({
      heat: map && seen ? { map, extent: seen.extent, opacity: thick, title: word(kind === "readers" ? "stage.readers" : "stage.share") } : null,
      point: ofPixel() ? point : null,
      boxes: [...state.shown().filter((one) => one !== of).reverse().map((one) => ({ box: one.box_xyxy, colour: classColour(one.label), width: 1, opacity: of || ofPixel() ? 0.3 : 0.9 })),
        ...(of && seen ? moves(seen, of, layer) : [])],
    });
  }

  /** The box of a query from its start to the shown layer, and fainter those after. @param {Look} found @param {Detection} of @param {number} shown */
  function moves(found, of, shown) {
    const start = startOf(found, of.query);
    const after = Array.from({ length: model.decoder_layers }, (_, layer) => ({ layer, answer: answerOf(found, model, layer, of.query) }));
    const boxes = after.filter(({ layer }) => layer !== shown).map(({ layer, answer }) => (
      { box: answer.box_xyxy, colour: classColour(answer.label), width: 1, dashed: false, opacity: 0.25 + (0.35 * layer) / model.decoder_layers, text: undefined }));
    const now = after[shown].answer;
    return [
      ...(start ? [{ box: start, colour: TRUTH, width: 1, dashed: true, opacity: 0.9, text: undefined }] : []), ...boxes,
      { box: now.box_xyxy, colour: classColour(now.label), width: 3, text: `${model.classes[now.label].name} ${number(now.score, 2)}` },
    ];
  }

  function drawControls() {
    const { inside: values, point } = state.values;
    for (const input of kinds.querySelectorAll("input")) input.checked = input.value === values.kind;
    const pixels = ofPixel();
    layers.input.max = String(pixels ? model.encoder_layers : model.decoder_layers);
    layers.set((pixels ? values.encoderLayer : values.layer) + 1);
    heads.set(values.head + 1);
    for (const field of [layers.field, heads.field]) field.hidden = values.kind === "rollout";
    priorField.hidden = !model.focus || values.kind !== "query";
    pixel.hidden = !pixels;
    across.value = point ? String(Math.round(point.x)) : "";
    down.value = point ? String(Math.round(point.y)) : "";
  }

  /** What belongs to the query alone: all its maps, its way through the layers, its slot. */
  function drawQuery() {
    const of = ofPixel() ? null : detection();
    const { inside: { prior: withPrior, layer, head, kind } } = state.values;
    for (const panel of [mosaicPanel, stepsPanel, slotPanel]) panel.hidden = !of || !seen;
    nothing.hidden = Boolean(of) || ofPixel();
    queryNumber.value = of ? String(of.query) : "";
    if (!of || !seen) return;
    const found = seen;
    const maps = Array.from({ length: model.decoder_layers }, (_, at) =>
      Array.from({ length: model.heads }, (_, one) => queryMap(found, at, of.query, { head: one, prior: withPrior })));
    drawMosaic(mosaic, maps, kind === "query" ? { layer, head } : null, (row, column) => word("inside.cell", { layer: row + 1, head: column + 1 }));
    mosaic.setAttribute("aria-label", word("inside.mosaic_label", { query: of.query, layers: model.decoder_layers, heads: model.heads }));
    drawSteps(found, of);
    drawSlotOf(of);
  }

  /** @param {Look} found @param {Detection} of */
  function drawSteps(found, of) {
    const start = startOf(found, of.query);
    const after = Array.from({ length: model.decoder_layers }, (_, layer) => answerOf(found, model, layer, of.query));
    const last = after[after.length - 1].box_xyxy;
    const row = (/** @type {string} */ name, /** @type {string} */ answer, /** @type {string} */ score, /** @type {import("../types.js").Box} */ box, isShown = false) =>
      element("tr", isShown ? { "aria-current": "true" } : {}, element("th", { scope: "row" }, name), element("td", {}, answer), element("td", { class: "digits" }, score),
        element("td", { class: "digits" }, number(boxIou(box, last), 2)));
    steps.replaceChildren(element("table", {},
      element("thead", {}, element("tr", {}, ...["layer", "answer", "score", "iou"].map((name, at) =>
        element("th", { scope: "col", class: at > 1 ? "digits" : "" }, word(`steps.${name}`))))),
      element("tbody", {}, ...(start ? [row(word("steps.start"), "", "", start)] : []),
        ...after.map(({ label, score, box_xyxy }, at) => row(String(at + 1), model.classes[label].name, number(score, 2), box_xyxy, at === state.values.inside.layer)))));
  }

  /** @param {Detection} of */
  function drawSlotOf(of) {
    const { seen: pictures } = state.values;
    const answers = pictures.map(({ result }) => ({ result, answer: result.detections.find(({ query }) => query === of.query) ?? null }));
    const given = answers.filter(({ answer }) => answer);
    /** @type {Map<string, number>} */
    const names = new Map();
    for (const { answer } of given) if (answer) names.set(model.classes[answer.label].name, (names.get(model.classes[answer.label].name) ?? 0) + 1);
    const listed = [...names].sort((a, b) => b[1] - a[1]).slice(0, 4).map(([name, count]) => `${name} × ${count}`).join(", ");
    slotText.textContent = [
      word("slot.said", { query: of.query, count: pictures.length, given: given.length }), listed && word("slot.names", { names: listed }),
      model.query_source === "selected" ? word("slot.selected") : "",
    ].filter(Boolean).join(" ");
    drawSlot(slot, given.map(({ result, answer }) => ({ box: /** @type {Detection} */ (answer).box_xyxy, width: result.width, height: result.height, colour: classColour(/** @type {Detection} */ (answer).label) })));
    slot.setAttribute("aria-label", word("slot.plot", { query: of.query }));
  }

  function drawList() {
    const shown = state.shown();
    const { chosen } = state.values;
    listing.show(shown.map(({ label, score }) => ({ text: model.classes[label].name, value: number(score, 2), colour: classColour(label) })), chosen ? shown.indexOf(chosen) : -1);
  }

  function drawAll() {
    drawControls();
    drawPicture();
    drawQuery();
  }

  const { picture } = state.values;
  if (picture) stage.show({ picture: picture.bitmap, width: picture.width, height: picture.height });
  if (!state.values.chosen && !ofPixel() && state.shown().length) state.set({ chosen: state.shown()[0] }); // something to see at once
  drawList();
  drawAll();
  void look().then((found) => {
    seen = found;
    if (found) drawAll();
    else sentence.textContent = "";
  });
  const ends = [
    state.listen(["inside", "point", "chosen"], drawAll),
    state.listen(["chosen", "result", "threshold", "hidden"], drawList),
    state.listen(["result"], () => context.go("inside")), // of another picture
  ];
  return () => {
    for (const end of ends) end();
    stage.close();
  };
}
