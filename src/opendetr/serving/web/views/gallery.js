/** The pictures of a split, sorted by what the model makes of them; one that is chosen opens with its labels. */

import { button, element, labelled } from "../elements.js";
import { patience } from "./patience.js";
import { REASONS } from "./reasons.js";

/**
 * @import { Context, DataClient } from "../types.js"
 * @import { Listed, Progress } from "../clients/data.js"
 */

const PAGE = 60; // pictures that are listed at once
const BY_ITSELF = 500; // pictures of a split up to which its survey begins without being asked
const EVERY = 2000; // milliseconds at most between looks at the survey
const SORTS = ["worst", "missed", "false_alarms", "confusion", "name"];

/** @type {{split: string, sort: string, confusion: [number, number]|null}} what was chosen, for as long as the page is open */
const kept = { split: "", sort: "worst", confusion: null };

/** @param {HTMLElement} place @param {Context} context */
export function gallery(place, context) {
  const { model, word, number, say, attempt, open, go } = context;
  const data = /** @type {DataClient} */ (context.client.data);
  const splits = usable(context);
  kept.split ||= firstSplit(splits);
  let isOver = false;
  let shown = 0; // pictures that are listed
  let asked = 0; // of requests for pictures, so that a late answer is known
  let opened = 0; // the same of pictures that are opened
  /** @type {Progress|null} */
  let progress = null;
  /** @type {Map<string, string>} addresses of small pictures, which the browser keeps until they are given back */
  const addresses = new Map();

  const split = splitSelect(context, kept.split, (name) => {
    kept.split = name;
    kept.confusion = null;
    progress = null;
    void begin();
  });
  const sort = element("select", { onchange: () => {
    kept.sort = sort.value;
    kept.confusion = null;
    void list();
  } }, ...SORTS.map((value) => element("option", { value }, word(`gallery.sort_${value}`))));
  sort.value = kept.sort;
  const bar = element("progress", { max: 1, value: 0, "aria-label": word("gallery.progress") });
  const told = element("p", { class: "small quiet" });
  const start = button(word("gallery.start"), () => void survey(), { class: "strong" });
  const summary = element("div", {});
  const grid = element("div", { class: "grid", role: "list" });
  const count = element("p", { class: "quiet small", role: "status" });
  const more = button(word("gallery.more"), () => void list(true), { hidden: true });
  const panel = element("section", { class: "panel survey", "aria-label": word("gallery.survey") }, element("h2", {}, word("gallery.survey")), bar, told, start, summary);
  place.append(
    element("div", { class: "row filters" }, labelled(word("gallery.split"), split), labelled(word("gallery.sort"), sort)),
    element("div", { class: "bench" }, element("div", {}, count, grid, more), panel));
  grid.addEventListener("keydown", walk);

  const seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
    if (!isIntersecting) return;
    seen.unobserve(target);
    void load(/** @type {HTMLImageElement} */ (target));
  }), { rootMargin: "200px" });

  /** @param {HTMLImageElement} image */
  async function load(image) {
    const { split: of = "", number: at, key = "" } = image.dataset;
    const blob = await attempt(() => data.image(of, Number(at), "thumbnail"));
    if (!blob || isOver) return;
    // A picture that was listed anew meanwhile may have its address already.
    const address = addresses.get(key) ?? URL.createObjectURL(blob);
    addresses.set(key, address);
    image.src = address;
  }

  /** @param {boolean} [isMore] adds to what is listed */
  async function list(isMore = false) {
    const own = ++asked;
    const of = kept.split;
    const offset = isMore ? shown : 0;
    /** @type {Record<string, string|number>} */
    const query = { sort: kept.sort, offset, limit: PAGE };
    if (kept.sort === "confusion" && kept.confusion) [query.true, query.found] = kept.confusion;
    const answer = await attempt(() => data.pictures(of, query));
    if (!answer || isOver || own !== asked) return;
    if (!isMore) grid.replaceChildren();
    grid.append(...answer.pictures.map((picture) => card(of, picture)));
    shown = offset + answer.pictures.length;
    more.hidden = shown >= answer.total;
    count.textContent = answer.total
      ? word("gallery.count", { shown: number(shown), total: number(answer.total) })
      : word(progress?.state === "done" ? "gallery.none" : "gallery.none_yet");
  }

  /** @param {string} of the split @param {Listed} picture */
  function card(of, picture) {
    const key = `${of}/${picture.number}`;
    const image = element("img", { alt: "", width: 160, height: 120, "data-split": of, "data-number": picture.number, "data-key": key, src: addresses.get(key) });
    if (!addresses.has(key)) seen.observe(image);
    const { survey: result } = picture;
    const [missed, alarms] = result ? [sum(result.missed), sum(result.false_alarms)] : [0, 0];
    const isWrong = missed + alarms > 0 || Boolean(result?.problem);
    const said = !result ? word("gallery.objects", { count: number(picture.objects) }) : result.problem ? word("gallery.problem")
      : isWrong ? [missed ? word("gallery.missed", { count: number(missed), objects: number(result.objects) }) : "",
        alarms ? word("gallery.alarms", { count: number(alarms) }) : ""].filter(Boolean).join(" · ")
        : word("gallery.all_right", { count: number(result.objects) });
    return element("div", { role: "listitem" }, element("button", { type: "button", class: "card", onclick: () => void show(of, picture) },
      image, element("span", { class: "name" }, picture.name),
      element("span", { class: `small ${isWrong ? "bad" : result ? "good" : "quiet"}` }, said),
      result?.confusions.length ? element("span", { class: "small quiet" }, result.confusions.map((pair) => confusion(pair)).join(", ")) : null));
  }

  /** @param {string} of the split @param {Listed} picture */
  async function show(of, { number: at, name }) {
    const own = ++opened;
    say(word("gallery.opening", { name }));
    const found = await attempt(() => Promise.all([data.image(of, at), data.picture(of, at)]));
    if (!found || isOver || own !== opened) return;
    void open(found[0], name, usedOf(found[1]));
    go(model.can_look ? "matching" : "detect");
  }

  /** @param {number[]} pair labels */
  const confusion = ([truth, found]) => `${model.classes[truth]?.name ?? truth} → ${model.classes[found]?.name ?? found}`;

  function tell() {
    if (!progress) return;
    const { state, done, pictures, objects, detections, missed, false_alarms: alarms, confusions, problems } = progress;
    bar.max = pictures || 1;
    bar.value = done;
    start.hidden = state !== "none";
    told.textContent = word(`gallery.state_${state}`, { done: number(done), pictures: number(pictures) });
    if (!done) return summary.replaceChildren();
    summary.replaceChildren(
      element("h3", {}, word("gallery.objects_title", { count: number(objects) })),
      rows([[word("gallery.row_found"), objects - sum(missed)], ...Object.entries(missed).map(named)]),
      element("h3", {}, word("gallery.alarms_title", { count: number(detections) })),
      sum(alarms) ? rows(Object.entries(alarms).map(named)) : element("p", { class: "quiet small" }, word("gallery.no_alarms")),
      element("h3", {}, word("gallery.confusions")),
      confusions.length ? element("div", { class: "chips" }, ...confusions.slice(0, 12).map(({ true: truth, found, count: times }) =>
        button(`${confusion([truth, found])} · ${number(times)}`, () => {
          kept.confusion = [truth, found];
          kept.sort = sort.value = "confusion";
          void list();
        }, { "aria-pressed": String(kept.confusion?.[0] === truth && kept.confusion[1] === found) })))
        : element("p", { class: "quiet small" }, word("gallery.no_confusions")),
      problems.length ? element("details", {}, element("summary", {}, word("gallery.problems", { count: number(problems.length) })),
        element("ul", { class: "small" }, ...problems.map((one) => element("li", {}, one)))) : "");
  }

  /** @param {[string, number]} row @returns {[string, number]} */
  const named = ([name, value]) => [REASONS[name] ? word(REASONS[name]) : name, value];

  /** @param {[string, number][]} values */
  const rows = (values) => element("table", {}, element("tbody", {}, ...values.map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "digits" }, number(value))))));

  async function survey() {
    const own = kept.split;
    const begun = await attempt(() => data.beginSurvey(own));
    if (isOver || own !== kept.split) return;
    progress = begun ?? progress;
    tell();
    void watch();
  }

  /** Looks at the survey until it is done; what is listed is sorted anew while nobody is about to choose from it. */
  async function watch() {
    const own = kept.split;
    const pause = patience(EVERY);
    while (!isOver && own === kept.split && progress?.state === "running") {
      await pause();
      if (isOver || own !== kept.split) return;
      const before = progress.done;
      const found = await attempt(() => data.survey(own));
      if (isOver || own !== kept.split) return;
      progress = found ?? progress;
      tell();
      if (progress.done !== before && shown <= PAGE && !grid.matches(":hover, :focus-within")) void list();
    }
  }

  async function begin() {
    const own = kept.split;
    const found = await attempt(() => data.survey(own));
    if (!found || isOver || own !== kept.split) return;
    progress = found;
    tell();
    void list();
    if (found.state === "none" && found.pictures <= BY_ITSELF) void survey();
    else void watch();
  }

  /** Arrow keys go from picture to picture. @param {KeyboardEvent} event */
  function walk(event) {
    const cards = /** @type {HTMLElement[]} */ ([...grid.querySelectorAll(".card")]);
    const at = cards.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const columns = cards.findIndex((one) => one.offsetTop > cards[0].offsetTop);
    /** @type {Record<string, number>} */
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: cards.length - 1 - at };
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    cards[at + steps[event.key]]?.focus();
  }

  void begin();
  return () => {
    isOver = true;
    seen.disconnect();
    addresses.forEach((address) => URL.revokeObjectURL(address));
  };
}

/** @param {Record<string, number>} counts */
const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);

/** The objects that training uses. @param {{truth: (import("../types.js").Truth & {used: boolean})[]}} picture */
export const usedOf = ({ truth }) => truth.filter(({ used }) => used).map(({ label, box_xyxy }) => ({ label, box_xyxy }));

/** The splits that can be read. @param {Context} context */
export const usable = ({ model }) => (model.data?.splits ?? []).filter(({ pictures }) => pictures > 0);

/** @param {{name: string}[]} splits */
export const firstSplit = (splits) => (splits.find(({ name }) => name === "val") ?? splits[0])?.name ?? "";

/** @param {Context} context @param {string} chosen @param {(name: string) => void} change */
export function splitSelect(context, chosen, change) {
  const select = element("select", { onchange: () => change(select.value) }, ...usable(context).map(({ name, pictures }) =>
    element("option", { value: name }, context.word("gallery.split_of", { name, count: context.number(pictures) }))));
  select.value = chosen;
  return select;
}
