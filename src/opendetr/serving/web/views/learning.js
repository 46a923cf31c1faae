/** Watch it learn: one picture as the kept models of a run see it, epoch by epoch, and the run's curves while it goes on. */

import { classColour } from "../colours.js";
import { button, element, labelled, slider } from "../elements.js";
import { queryMap } from "../maps.js";
import { runCurves } from "./curves.js";
import { firstSplit, splitSelect, usable, usedOf } from "./gallery.js";
import { Listing } from "./listing.js";
import { needsPicture } from "./pictures.js";
import { Stage, under } from "./stage.js";

/** @import { Context, DataClient, Detection, Picture } from "../types.js" */

const PLAYED = 700; // milliseconds of a checkpoint, where they are played
const MANY = 12; // boxes up to which all have their names

/** What was chosen, for as long as the page is open. */
const kept = { split: "", number: 0, withMap: false };

/** @param {HTMLElement} place @param {Context} context */
export function learning(place, context) {
  const { client, model, state, word, number, attempt, open } = context;
  const data = /** @type {DataClient} */ (client.data);
  let isOver = false;
  /** @type {{name: string, epoch: number}[]|null} null: not known yet */
  let checkpoints = null;
  let at = 0;
  /** @type {Map<string, Promise<Picture|undefined>>} answers for this picture */
  const answers = new Map();
  /** @type {Map<string, ReturnType<typeof client.look>>} the same of what was looked at */
  const looks = new Map();
  /** @type {Detection|null} */
  let pointed = null;
  /** @type {Detection[]} */
  let shown = [];
  let isPlaying = false;
  let plays = 0; // times that Play was pressed
  let wishes = 0; // pictures that were asked for, so that a late answer is known

  const time = element("section", { class: "panel" });
  const curves = element("section", { class: "later", "aria-label": word("learning.curves") }, element("h2", {}, word("learning.curves")));
  place.append(element("section", { "aria-label": word("learning.time") }, element("h2", {}, word("learning.time")), time),
    curves);

  function begin() {
    time.replaceChildren();
    answers.clear();
    looks.clear();
    time.append(chooser());
    if (needsPicture(time, context)) return;
    if (!checkpoints) return;
    let models = checkpoints;
    if (!models.length) return void time.append(element("p", {}, word("learning.no_checkpoints")));
    at = Math.min(at, models.length - 1);
    const picture = /** @type {import("../types.js").OpenPicture} */ (state.values.picture);
    const stage = new Stage(word("learning.stage"), (most) => most, {
      hover: (point) => pointAt(point && under(shown, point)), press: (point) => pointAt(under(shown, point)),
    });
    const listing = new Listing(word("detect.list"), word("detect.none"), {
      walk: (row) => pointAt(row === null ? null : shown[row]), choose: (row) => pointAt(row === null ? null : shown[row]),
    });
    const bar = slider(word("learning.checkpoint"), {
      min: 0, max: models.length - 1, value: at, shown: (value) => word("learning.epoch", { epoch: number(models[value].epoch) }),
      change: (value) => void go(value),
    });
    const play = button(word("learning.play"), () => (isPlaying ? stop() : void playOn()));
    const map = element("input", { type: "checkbox", checked: kept.withMap, onchange: () => {
      kept.withMap = map.checked;
      void drawMap();
    } });
    const note = element("p", { class: "quiet small" }, word("learning.map_hint"));
    time.append(element("div", { class: "bench" }, stage.element, element("div", {}, bar.field,
      element("div", { class: "row" }, play, model.can_look ? element("label", { class: "check" }, map, word("learning.map")) : null),
      model.can_look ? note : null, listing.element)));
    stage.show({ picture: picture.bitmap, width: picture.width, height: picture.height });

    function stop() {
      isPlaying = false;
      play.textContent = word("learning.play");
    }

    /** Shows one checkpoint after the other, each as soon as it is there and the one before was seen long enough. */
    async function playOn() {
      isPlaying = true;
      play.textContent = word("learning.pause");
      const own = ++plays;
      const isOn = () => isPlaying && own === plays && !isOver && state.values.picture === picture;
      if (at === models.length - 1) at = -1;
      while (isOn() && at < models.length - 1) {
        await Promise.all([go(at + 1), new Promise((resolve) => setTimeout(resolve, PLAYED))]);
      }
      if (own === plays) stop();
    }

    /** @param {number} to */
    async function go(to) {
      at = to;
      bar.set(to);
      const { name } = models[to];
      if (!answers.has(name)) answers.set(name, attempt(() => data.detectAt(picture.blob, name)));
      const found = await answers.get(name);
      if (isOver || at !== to || state.values.picture !== picture) return;
      if (!found) return void answers.delete(name);
      shown = found.detections.filter(({ label, score }) => score >= state.thresholdOf(label));
      pointed = null;
      listing.show(shown.map(({ label, score }) => ({ text: model.classes[label].name, value: number(score, 2), colour: classColour(label) })));
      draw();
      void drawMap();
      const after = models[to + 1];
      if (after && !answers.has(after.name)) answers.set(after.name, attempt(() => data.detectAt(picture.blob, after.name)));
    }

    function draw() {
      stage.show({ boxes: [...shown].reverse().sort((a, b) => Number(a === pointed) - Number(b === pointed)).map((one) => ({
        box: one.box_xyxy, colour: classColour(one.label), width: one === pointed ? 3 : 2, opacity: pointed && one !== pointed ? 0.35 : 1,
        text: one === pointed || (!pointed && shown.length < MANY) ? `${model.classes[one.label].name} ${number(one.score, 2)}` : undefined,
      })) });
    }

    /** @param {Detection|null} detection */
    function pointAt(detection) {
      if (detection === pointed) return;
      pointed = detection;
      draw();
      void drawMap();
    }

    /** What the query that is pointed at, or the best one, looked at in this checkpoint. */
    async function drawMap() {
      const of = pointed ?? shown[0];
      if (!kept.withMap || !of) return stage.show({ heat: null });
      const own = at;
      const { name } = models[own];
      if (!looks.has(name)) looks.set(name, client.look(picture.blob, name));
      const look = await attempt(() => /** @type {ReturnType<typeof client.look>} */ (looks.get(name)));
      if (!look) looks.delete(name);
      if (!look || isOver || own !== at || !kept.withMap || of !== (pointed ?? shown[0])) return;
      stage.show({ heat: {
        map: queryMap(look, model.decoder_layers - 1, of.query, { head: -1, prior: true }), extent: look.extent,
        opacity: state.values.inside.opacity, title: word("detect.looked", { name: model.classes[of.label].name, query: of.query }),
      } });
    }

    leaveStage = () => {
      stop();
      stage.close();
      lengthen = null;
    };
    // The run has kept one more: nothing but the slider changes, and who was at its end goes on to the new one.
    lengthen = () => {
      const wasLast = at === models.length - 1;
      models = checkpoints ?? models;
      bar.input.max = String(models.length - 1);
      if (wasLast && !isPlaying) void go(models.length - 1);
    };
    void go(at);
  }
  let leaveStage = () => {};
  /** @type {(() => void)|null} shows more checkpoints, where some are shown */
  let lengthen = null;

  /** Chooses a picture of the data set, where there is one. */
  function chooser() {
    const splits = usable(context);
    if (!splits.length) return "";
    kept.split ||= firstSplit(splits);
    const of = () => splits.find(({ name }) => name === kept.split)?.pictures ?? 1;
    const input = element("input", { type: "number", min: "1", max: String(of()), value: String(kept.number + 1), onchange: () => void choose(Number(input.value) - 1) });
    const split = splitSelect(context, kept.split, (name) => {
      kept.split = name;
      input.max = String(of());
      void choose(0);
    });
    /** @param {number} wanted */
    async function choose(wanted) {
      const own = ++wishes;
      kept.number = Math.min(Math.max(Math.trunc(wanted) || 0, 0), of() - 1);
      input.value = String(kept.number + 1);
      const { split: from, number: which } = kept;
      const found = await attempt(() => Promise.all([data.image(from, which), data.picture(from, which)]));
      if (found && !isOver && own === wishes) await open(found[0], found[1].name, usedOf(found[1]));
    }
    if (!state.values.picture) void choose(kept.number);
    return element("div", { class: "row filters" }, labelled(word("gallery.split"), split), labelled(word("learning.number"), input));
  }

  const ended = state.listen(["picture"], () => {
    leaveStage();
    begin();
  });
  const endCurves = runCurves(curves, { data, word, number, attempt }, (run) => {
    if (checkpoints?.length === run.checkpoints.length) return;
    const isMore = checkpoints?.every(({ name }, place) => run.checkpoints[place]?.name === name);
    if (!checkpoints) at = Math.max(0, run.checkpoints.length - 1);
    checkpoints = run.checkpoints;
    if (isMore && lengthen) return lengthen();
    leaveStage();
    begin();
  });
  return () => {
    isOver = true;
    endCurves();
    ended();
    leaveStage();
  };
}
