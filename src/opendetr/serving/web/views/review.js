/** Label review: labels that may be wrong, the likeliest first; each decision is on the server's disk when it is said. */

import { button, element, labelled } from "../elements.js";
import { ACCENT, Editor } from "./editor.js";
import { firstSplit, splitSelect, usable } from "./gallery.js";
import { Listing } from "./listing.js";
import { patience } from "./patience.js";
import { Stage, under } from "./stage.js";

/**
 * @import { Box, Context, DataClient } from "../types.js"
 * @import { Decision, Entry, Label, Review } from "../clients/data.js"
 */

const MOST = 500; // entries of the queue that are known at once
const EVERY = 3000; // milliseconds at most between looks at a survey that runs
const CLOSE = 0.12; // of the picture's longer side: smaller objects are shown enlarged
const AROUND = 4; // by how much what is shown is larger than the object
const PROPOSED = "#ffd84d";

/** @type {Record<string, string>} */
const FAULTS = { "missing label": "missing", "wrong class": "wrong_class", "badly placed": "shifted", "nothing there": "spurious" };

/** What was chosen, for as long as the page is open. */
const kept = { split: "", fault: "", onlyOpen: true };

/** @param {HTMLElement} place @param {Context} context */
export function review(place, context) {
  const { word, number, say, attempt } = context;
  const data = /** @type {DataClient} */ (context.client.data);
  kept.split ||= firstSplit(usable(context));
  let isOver = false;
  let isDeciding = false;
  /** @type {Review|null} */
  let all = null;
  /** @type {Entry|null} */
  let entry = null;
  /** @type {Label[]} of its picture, with the decisions made */
  let labels = [];
  /** @type {Label|null} the label that decisions are about */
  let target = null;
  /** @type {ImageBitmap|null} */
  let bitmap = null;
  /** @type {ImageBitmap|null} what of it is shown */
  let part = null;
  let isClose = false;
  let shownAt = { x: 0, y: 0 }; // of the picture, at the stage's corner

  const stage = new Stage(word("review.stage"), (most) => most, { press: (point) => {
    if (!editor.box) aim(/** @type {Label|null} */ (under(labels, { x: point.x + shownAt.x, y: point.y + shownAt.y })));
  } });
  const editor = new Editor(stage, { origin: () => shownAt, size: () => entry ?? { width: 1, height: 1 }, changed: () => {
    draw();
    tellEditing();
  } });

  const split = splitSelect(context, kept.split, (name) => {
    kept.split = name;
    void begin();
  });
  const fault = element("select", { onchange: () => {
    kept.fault = fault.value;
    drawQueue();
    if (entry && !chosen().includes(entry)) void show(chosen()[0] ?? null);
  } }, element("option", { value: "" }, word("review.all_faults")),
  ...Object.entries(FAULTS).map(([value, key]) => element("option", { value }, word(`review.fault_${key}`))));
  fault.value = kept.fault;
  const onlyOpen = element("input", { type: "checkbox", checked: kept.onlyOpen, onchange: () => {
    kept.onlyOpen = onlyOpen.checked;
    drawQueue();
  } });
  const listing = new Listing(word("review.queue"), word("review.empty"), { walk: () => {}, choose: (at) => at !== null && void show(chosen()[at]) });
  const classes = element("select", { "aria-label": word("review.class"), onkeydown: (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      setClass();
    } else if (event.key === "Escape") place.focus();
  } });
  const title = element("h2", {});
  const sentence = element("p", { class: "sentence" });
  const aimed = element("p", { class: "small quiet" });
  const state = element("p", { class: "small quiet", role: "status" });
  const editing = element("div", { class: "panel editing", hidden: true });
  const keyed = (/** @type {string} */ name, /** @type {string} */ key, /** @type {() => void} */ press, properties = {}) =>
    element("button", { type: "button", onclick: press, "aria-keyshortcuts": key, ...properties }, word(`review.${name}`), element("kbd", { "aria-hidden": "true" }, key));
  const accept = keyed("accept", "A", () => void accepted(), { class: "strong" });
  const keep = keyed("keep", "K", () => void keepAsIs());
  const move = keyed("move", "M", beginMove);
  const change = keyed("set_class", "C", setClass);
  const remove = keyed("delete", "D", () => void removed());
  const add = keyed("add", "N", beginAdd);
  const undo = keyed("undo", "U", () => void undone());
  const before = keyed("previous", "B", () => step(-1));
  const next = keyed("next", "J", () => step(1));
  const zoom = keyed("zoom", "Z", () => {
    isClose = !isClose;
    frame();
  }, { "aria-pressed": "false" });
  const other = keyed("other", "T", () => {
    if (labels.length) aim(labels[((target ? labels.indexOf(target) : -1) + 1) % labels.length]);
  });
  const legend = element("p", { class: "small quiet row" }, ...[["label", "#ffffff"], ["target", ACCENT], ["proposed", PROPOSED]].map(([name, colour]) => {
    const mark = element("span", { class: "key shaded", "aria-hidden": "true" });
    mark.style.borderColor = colour;
    return element("span", { class: "row" }, mark, word(`review.key_${name}`));
  }));
  const bench = element("div", { class: "bench" },
    element("div", {}, stage.element, editing, legend),
    element("div", {},
      element("section", { class: "panel", "aria-label": word("review.entry") }, title, sentence, aimed,
        element("div", { class: "decisions" }, accept, keep, move, remove, add),
        element("div", { class: "row class-row" }, classes, change),
        element("div", { class: "row" }, undo, before, next, zoom, other)),
      element("section", { class: "panel" }, element("h2", {}, word("review.queue")), state,
        labelled(word("review.fault"), fault),
        element("label", { class: "check" }, onlyOpen, word("review.only_open")), listing.element)));
  const problem = element("p", { class: "panel bad", hidden: true });
  stage.scale.remove(); // no map is shown here
  place.append(element("div", { class: "row filters" }, labelled(word("gallery.split"), split)), problem, bench);
  place.addEventListener("keydown", press);
  place.focus({ preventScroll: true });

  /** The entries that are listed: of the chosen kind, and those that are open, or decided just now. */
  const chosen = () => (all?.queue ?? []).filter((one) =>
    (!kept.fault || one.fault === kept.fault) && (!kept.onlyOpen || !one.decisions.length || one === entry));

  async function begin() {
    entry = null;
    all = null;
    await refresh();
    const known = /** @type {Review|null} */ (all); // which `refresh` has set
    if (isOver || !known) return;
    if (known.survey.state === "none") await attempt(() => data.beginSurvey(kept.split));
    void show(chosen()[0] ?? null);
    void watch();
  }

  /** Asks for the queue; the entry that is shown stays. */
  async function refresh() {
    const own = kept.split;
    const found = await data.review(own, MOST).catch((/** @type {unknown} */ error) => /** @type {Error & {values?: any}} */ (error));
    if (isOver || own !== kept.split) return;
    const isRefused = found instanceof Error;
    bench.hidden = isRefused;
    problem.hidden = !isRefused;
    if (isRefused) {
      problem.textContent = found.values?.sentence ?? String(found.message);
      return;
    }
    all = found;
    if (entry) entry = all.queue.find(({ key }) => key === entry?.key) ?? entry;
    const wanted = classes.value;
    if (classes.options.length !== all.classes.length) {
      classes.replaceChildren(...all.classes.map(({ name }, at) => element("option", { value: String(at) }, name)));
      classes.value = wanted || "0";
    }
    drawQueue();
    tell();
  }

  async function watch() {
    const own = kept.split;
    const pause = patience(EVERY);
    while (!isOver && own === kept.split && all && all.survey.state !== "done") {
      await pause();
      if (isOver || own !== kept.split) return;
      if (!isDeciding && !editor.box) await refresh();
      if (!entry && chosen().length) void show(chosen()[0]);
    }
  }

  function drawQueue() {
    const rows = chosen().slice(0, MOST);
    listing.show(rows.map((one) => ({
      text: `${word(`review.fault_${FAULTS[one.fault]}`)}: ${named(one)}`, note: one.name, value: one.decisions.length ? "✓" : "",
    })), entry ? rows.indexOf(entry) : -1);
    if (!all) return;
    const { survey, decided, total, file, edits, live, problem: unwritten, left_out: leftOut } = all;
    state.textContent = [
      word("review.progress", { decided: number(decided), total: number(total) }),
      survey.state === "done" ? "" : word("review.surveying", { done: number(survey.done), pictures: number(survey.pictures) }),
      unwritten ?? (live ? word("review.saved", { count: number(edits), file }) : word("review.unsaved", { file })),
      leftOut ? word("review.left_out", { count: number(leftOut) }) : "",
    ].filter(Boolean).join(" ");
    undo.disabled = !live;
  }

  /** What is labelled and what is proposed, in few words. @param {Entry} one */
  const named = (one) => (one.fault === "wrong class" ? `${one.given} → ${one.class}` : one.given ?? one.class);

  /** @param {Entry|null} one */
  async function show(one) {
    editor.end();
    entry = one;
    labels = [];
    target = null;
    setBitmap(null);
    drawQueue();
    tell();
    if (!one) return stage.show({ picture: null, boxes: [] });
    const { key, picture, bbox: [, , wide, tall], width, height } = one;
    isClose = Math.max(wide, tall) < CLOSE * Math.max(width, height);
    const found = await attempt(() => Promise.all([data.image(kept.split, picture), data.labels(kept.split, picture)]));
    if (!found || isOver || entry?.key !== key) return;
    const made = await createImageBitmap(found[0]);
    if (isOver || entry?.key !== key) return made.close();
    setBitmap(made);
    labels = found[1].objects;
    aim(labels.find(({ annotation }) => annotation === one.annotation) ?? null);
    const proposed = all?.classes.findIndex(({ category_id }) => category_id === one.category_id) ?? -1;
    classes.value = String(Math.max(0, proposed));
    await frame();
  }

  /** Gives the memory of the picture before back. @param {ImageBitmap|null} made */
  function setBitmap(made) {
    bitmap?.close();
    bitmap = made;
  }

  /** The same of the part that is shown. @param {ImageBitmap|null} made */
  function setPart(made) {
    part?.close();
    part = made;
  }

  /** Shows the whole picture, or the surroundings of the entry. */
  async function frame() {
    if (!entry || !bitmap) return;
    const whole = bitmap;
    const [x, y, wide, tall] = entry.bbox;
    const side = Math.max(AROUND * Math.max(wide, tall), 0.2 * Math.max(entry.width, entry.height));
    const width = Math.round(isClose ? Math.min(entry.width, side) : entry.width);
    const height = Math.round(isClose ? Math.min(entry.height, side) : entry.height);
    const inside = (/** @type {number} */ middle, /** @type {number} */ length, /** @type {number} */ most) =>
      Math.round(Math.min(Math.max(middle - length / 2, 0), most - length));
    const at = { x: inside(x + wide / 2, width, entry.width), y: inside(y + tall / 2, height, entry.height) };
    const made = await createImageBitmap(whole, at.x, at.y, width, height).catch(() => null); // which was closed meanwhile
    if (!made) return;
    if (isOver || whole !== bitmap) return made.close();
    setPart(made);
    shownAt = at;
    zoom.setAttribute("aria-pressed", String(isClose));
    stage.show({ picture: made, width, height });
    draw();
  }

  function draw() {
    if (!entry || !bitmap) return stage.show({ boxes: [] });
    const { bbox: [x, y, wide, tall], fault: kind, class: name, score } = entry;
    const isOpen = !entry.decisions.length;
    /** @type {import("./stage.js").DrawnBox[]} */
    const boxes = labels.filter((label) => label !== target).map((label) => ({ box: label.box_xyxy, colour: "#ffffff", width: 1.5 }));
    if (isOpen && !editor.box && kind !== "nothing there") {
      boxes.push({ box: [x, y, x + wide, y + tall], colour: PROPOSED, width: 2, dashed: true, text: `${name} ${number(score, 2)}` });
    }
    if (target && !editor.box) boxes.push({ box: target.box_xyxy, colour: ACCENT, width: 3, text: target.name });
    boxes.push(...editor.drawn());
    stage.show({ boxes: boxes.map((one) => ({ ...one, box: /** @type {Box} */ (one.box.map((value, at) => value - (at % 2 ? shownAt.y : shownAt.x))) })) });
  }

  /** Decisions are about another label of the picture from now on. @param {Label|null} label */
  function aim(label) {
    target = label;
    draw();
    tell();
  }

  function tell() {
    const list = chosen();
    title.textContent = entry ? `${word(`review.fault_${FAULTS[entry.fault]}`)}: ${named(entry)}` : word(all && all.survey.state !== "done" ? "review.waiting" : "review.nothing");
    sentence.textContent = entry ? word(`review.why_${FAULTS[entry.fault]}`, {
      name: entry.class, given: entry.given ?? "", score: number(entry.score, 2), given_score: number(entry.given_score, 2), iou: number(entry.iou, 2),
    }) : "";
    aimed.textContent = !entry ? "" : entry.decisions.length ? word("review.is_decided")
      : target && target.annotation !== entry.annotation ? word("review.aimed", { name: target.name }) : word("review.picture", { name: entry.name });
    /** @type {Text} */ (accept.firstChild).data = word(entry ? `review.accept_${entry.edit}` : "review.accept", { name: entry?.class ?? "" });
    for (const one of [accept, keep]) one.disabled = !entry || isDeciding || Boolean(editor.box);
    for (const one of [change, move]) one.disabled = !entry || isDeciding || (!target && entry.fault !== "missing label");
    remove.disabled = !target || isDeciding;
    add.disabled = !entry || isDeciding;
    before.disabled = !entry || list.indexOf(entry) <= 0;
    next.disabled = !entry || list.indexOf(entry) >= list.length - 1;
  }

  /** @param {Decision} decision @param {boolean} stays with this entry afterwards */
  async function decide(decision, stays = false) {
    if (!entry || !all || isDeciding) return;
    isDeciding = true;
    tell();
    const { version } = all;
    const position = chosen().indexOf(entry);
    const made = await attempt(() => data.decide(kept.split, version, decision));
    isDeciding = false;
    if (isOver) return;
    if (made) {
      editor.end();
      say(word(`review.did_${decision.edit}`));
    }
    await refresh();
    if (isOver) return;
    if (!made && editor.box) return tell(); // it can be sent again
    if (made && !stays && entry) {
      const rest = chosen().filter((one) => one !== entry);
      const after = (all.queue ?? []).indexOf(entry);
      const following = rest.find((one) => (all?.queue.indexOf(one) ?? 0) > after) ?? rest[position - 1] ?? null;
      return show(following ?? null);
    }
    await show(entry);
  }

  const about = () => ({ image_id: /** @type {Entry} */ (entry).image_id });

  async function accepted() {
    if (!entry) return;
    const { edit, annotation, category_id, bbox } = entry;
    const of = annotation === null ? {} : { annotation };
    await decide({ edit, ...about(), ...of, accepted: true, ...(edit === "add" || edit === "class" ? { category_id } : {}), ...(edit === "add" || edit === "move" ? { bbox } : {}) });
  }

  async function keepAsIs() {
    if (!entry) return;
    const { annotation, bbox } = entry;
    await decide({ edit: "keep", ...about(), ...(annotation === null ? { bbox } : { annotation }) });
  }

  /** Whether a decision about the target is one about the entry, so that the next one can come. */
  const isDone = () => target?.annotation === entry?.annotation;

  async function removed() {
    if (target) await decide({ edit: "delete", ...about(), annotation: target.annotation }, !isDone());
  }

  function setClass() {
    if (document.activeElement !== classes && document.activeElement !== change) return classes.focus();
    const category_id = all?.classes[Number(classes.value)]?.category_id;
    place.focus({ preventScroll: true });
    if (!entry || category_id === undefined) return;
    if (target) void decide({ edit: "class", ...about(), annotation: target.annotation, category_id }, !isDone());
    else void decide({ edit: "add", ...about(), category_id, bbox: entry.bbox });
  }

  function beginMove() {
    if (!entry) return;
    const [x, y, wide, tall] = entry.bbox;
    const isOfEntry = target?.annotation === entry.annotation || !target;
    editor.begin(isOfEntry && entry.edit !== "class" && entry.edit !== "delete" ? [x, y, x + wide, y + tall] : /** @type {Label} */ (target).box_xyxy);
    place.focus({ preventScroll: true });
  }

  /** A new box in the middle of what is shown, or where it is drawn. */
  function beginAdd() {
    const { width, height } = stage.drawn;
    aim(null);
    editor.begin([shownAt.x + width * 0.4, shownAt.y + height * 0.4, shownAt.x + width * 0.6, shownAt.y + height * 0.6], true);
    place.focus({ preventScroll: true });
  }

  function tellEditing() {
    editing.hidden = !editor.box;
    if (!editor.box) return tell();
    const isNew = editor.isNew;
    if (!editing.childElementCount || editing.dataset.kind !== String(isNew)) {
      editing.dataset.kind = String(isNew);
      editing.replaceChildren(
        element("p", { role: "status" }, word(isNew ? "review.drawing" : "review.moving")),
        element("div", { class: "row" }, button(word("review.finish"), finish, { class: "strong", "aria-keyshortcuts": "Enter" }),
          button(word("review.cancel"), () => editor.end(), { "aria-keyshortcuts": "Escape" }), element("span", { class: "digits quiet" })));
    }
    const [x1, y1, x2, y2] = editor.box;
    /** @type {HTMLElement} */ (editing.querySelector(".digits")).textContent =
      [x1, y1, x2 - x1, y2 - y1].map((value) => number(value, 1)).join("  ");
    tell();
  }

  /** Decides with the box that was drawn. */
  function finish() {
    if (!editor.box || !entry) return;
    const [x1, y1, x2, y2] = editor.box;
    const bbox = [x1, y1, x2 - x1, y2 - y1].map((value) => Math.round(value * 100) / 100);
    const category_id = all?.classes[Number(classes.value)]?.category_id;
    if (target && !editor.isNew) void decide({ edit: "move", ...about(), annotation: target.annotation, bbox }, !isDone());
    else if (category_id !== undefined) void decide({ edit: "add", ...about(), category_id, bbox }, editor.isNew);
  }

  async function undone() {
    if (!all || isDeciding) return;
    isDeciding = true;
    const { version, queue } = all;
    const answer = await attempt(() => data.undo(kept.split, version));
    isDeciding = false;
    if (isOver) return;
    const was = answer?.undone;
    const back = was && queue.find(({ decisions }) => decisions.includes(was.number));
    if (was) say(word("review.undone"));
    await refresh();
    if (isOver) return;
    const again = back ? all.queue.find(({ key }) => key === back.key) : entry;
    await show(again ?? chosen()[0] ?? null);
  }

  /** @param {number} by */
  function step(by) {
    const list = chosen();
    const to = list[(entry ? list.indexOf(entry) : -1) + by];
    if (to) void show(to);
  }

  /** @param {KeyboardEvent} event */
  function press(event) {
    const at = /** @type {HTMLElement} */ (event.target);
    if (event.defaultPrevented || ["SELECT", "INPUT"].includes(at.tagName)) return;
    const isUndo = event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey);
    if ((event.ctrlKey || event.metaKey) && !isUndo) return;
    if (editor.box) {
      const isControl = at.tagName === "BUTTON" && event.key === "Enter";
      if (editor.press(event) || event.key === "Escape" || (event.key === "Enter" && !isControl)) event.preventDefault();
      if (event.key === "Enter" && !isControl) finish();
      if (event.key === "Escape") editor.end();
      return;
    }
    /** @type {Record<string, HTMLButtonElement>} */
    const keys = { a: accept, k: keep, m: move, c: change, d: remove, delete: remove, n: add, u: undo, b: before, j: next, arrowleft: before, arrowright: next, z: zoom, t: other };
    const pressed = isUndo ? undo : event.altKey ? undefined : keys[event.key.toLowerCase()];
    if (!pressed) return;
    event.preventDefault();
    if (!pressed.disabled) pressed.click();
  }

  void begin();
  return () => {
    isOver = true;
    stage.close();
    stage.show({ picture: null, boxes: [] });
    setBitmap(null);
    setPart(null);
    place.removeEventListener("keydown", press);
  };
}
