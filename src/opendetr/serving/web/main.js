/** Starts the page: finds what computes for it, draws the frame around the views, and takes in pictures and labels. */

import { Server, httpClient } from "./clients/http.js";
import { button, element, newId } from "./elements.js";
import { Failure } from "./failure.js";
import { LANGUAGES, firstLanguage, keep, kept, numbersOf, wordsOf } from "./language.js";
import { isLabelFile, readLabels } from "./model/label_files.js";
import { oneLine } from "./model/wording.js";
import { State } from "./state.js";
import { VIEWS } from "./views.js";
import { runCurves } from "./views/curves.js";

/** @import { Client, Context, DataClient, Model, OpenPicture } from "./types.js" */

const SHOWN = 5000; // milliseconds
/** Rows of Python's certificate whose names the page has in all its languages; what they say comes in English. */
const CERTIFIED = ["engine", "compared with", "comparisons", "answers", "all queries", "sizes", "attention", "left out", "AP", "inside"];

let language = firstLanguage();
let word = wordsOf(language);
/** @type {() => void} what ends the view that is shown */
let leave = () => {};

const notice = element("p", { id: "notice", role: "status" });
const alarm = element("p", { id: "alarm", role: "alert" });

/** @type {ReturnType<typeof setTimeout>|undefined} */
let passing;

let isWorking = false;

// At once, since a new export may be kept while this page begins; only on https and localhost.
const keeper = /** @type {ServiceWorkerContainer|undefined} */ (navigator.serviceWorker);
let isKept = Boolean(keeper?.controller); // else the first change only begins to keep what is shown
keeper?.addEventListener("controllerchange", () => {
  if (isKept) location.reload();
  isKept = true;
});

/** Shows a sentence: an error until the next one, what went well for a few seconds. @param {string} text @param {boolean} [isError] */
function say(text, isError = false) {
  notice.textContent = isError ? "" : text;
  alarm.textContent = isError ? text : "";
  clearTimeout(passing);
  passing = setTimeout(() => (notice.textContent = ""), SHOWN);
  markWorking(false);
}

/** Shows what is being done, until another sentence says how it went. @param {string} text */
function sayWorking(text) {
  say(text);
  clearTimeout(passing);
  markWorking(true);
}

/** @param {boolean} now */
function markWorking(now) {
  isWorking = now;
  document.querySelector("main")?.setAttribute("aria-busy", String(now));
}

/** The static folder has a `model.json`, a server has not. @returns {Promise<Client>} */
async function findClient() {
  const model = (await isServer()) ? null : await fetch("model.json").then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
  if (model?.classes) {
    return (await import("./clients/local.js")).localClient(model, (event) => say(word(`engine.${event}`)));
  }
  return httpClient(new Server({ tell: (event, values) => say(word(`server.${event}`, values), event === "gone"), askKey }));
}

/** Whether it is a server for sure: its files come with a policy that hosts rarely send, and it says that it is well. */
async function isServer() {
  const file = await fetch("icon.svg", { method: "HEAD" }).catch(() => null);
  if (!file?.headers.has("permissions-policy")) return false;
  return fetch("healthz").then(async (answer) => answer.ok && Boolean(await answer.json()), () => false).catch(() => false);
}

/** Asks the reader for the server's key. @returns {Promise<string|null>} */
function askKey() {
  return new Promise((resolve) => {
    const input = element("input", { type: "password", required: true, autocomplete: "off", id: newId("key") });
    const dialog = element("dialog", { "aria-label": word("key.title") },
      element("form", { method: "dialog" },
        element("label", { for: input.id }, word("key.label")), input,
        element("div", { class: "row" },
          element("button", { value: "use", class: "strong" }, word("key.use")),
          button(word("key.cancel"), () => dialog.close("")))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "use" ? input.value : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** @template T @param {() => Promise<T>} work @returns {Promise<T|undefined>} */
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Failure)) console.error(error);
    say(error instanceof Failure ? word(`error.${error.kind}`, error.values) : word("error.page", { sentence: String(error) }), true);
    return undefined;
  }
}

/** @param {Client} client @param {Model} model */
function run(client, model) {
  const state = new State(model);
  const views = VIEWS.filter(({ offered }) => !offered || offered(client, model));

  let openings = 0; // so that a picture that is decoded late is known

  /** @type {Context["open"]} */
  async function open(file, name, truth) {
    const picture = await show(file, name, truth);
    if (picture) await detectIn(picture);
    return picture;
  }

  /** Shows a picture; null where it cannot be read, or another was opened meanwhile. @type {Context["open"]} */
  async function show(file, name, truth) {
    const own = (openings += 1);
    name = oneLine(name);
    // Its bytes are read once: a file may be moved or deleted later.
    const blob = await file.arrayBuffer().then((bytes) => new Blob([bytes], { type: file.type }), () => null);
    const bitmap = blob && (await createImageBitmap(blob, { imageOrientation: "from-image" }).catch(() => null));
    if (own !== openings) {
      bitmap?.close();
      return null;
    }
    if (!blob || !bitmap) {
      say(word("error.picture", { name }), true);
      return null;
    }
    const picture = { blob, name, bitmap, width: bitmap.width, height: bitmap.height };
    state.look = null;
    state.set({ picture, result: null, chosen: null, point: null, truth: truth ?? null, truthName: "" });
    return picture;
  }

  /** @param {OpenPicture} picture */
  async function detectIn(picture) {
    const { blob, name } = picture;
    sayWorking(word("detect.working", { name }));
    const result = await attempt(() => client.detect(blob));
    if (!result || state.values.picture !== picture) return; // another picture came meanwhile
    state.set({ result });
    state.remember(name, result);
    say(word("detect.done", { name, count: state.shown().length }));
  }

  /** @type {Context["look"]} */
  function look() {
    const { picture } = state.values;
    if (!picture) return Promise.resolve(undefined);
    if (state.look?.blob === picture.blob) return state.look.answer;
    const answer = attempt(() => client.look(picture.blob));
    state.look = { blob: picture.blob, answer };
    void answer.then((found) => {
      if (!found && state.look?.answer === answer) state.look = null; // asked for again the next time
    });
    return answer;
  }

  /** @type {Context["receive"]} */
  async function receive(files) {
    const given = [...files];
    const file = given.find(({ type }) => type.startsWith("image/"));
    const labels = given.filter(({ name }) => isLabelFile(name));
    if (!file && !labels.length) return say(word("error.neither", { name: oneLine(given[0]?.name ?? "") }), true);
    const picture = file ? await show(file, file.name) : state.values.picture;
    if (!picture) return file ? undefined : say(word("error.labels_first"), true);
    const reading = labels.length ? readInto(picture, labels) : null;
    reading?.catch(() => {}); // it is told below
    if (file) await detectIn(picture);
    if (!reading) {
      if (!["#", "", "#detect", "#inside", "#matching"].includes(location.hash)) go("detect");
      return;
    }
    const read = await attempt(() => reading);
    if (!read || state.values.picture !== picture) return;
    const left = [
      read.others.length ? word("labels.others", { names: oneLine(read.others.slice(0, 5).join(", ")) }) : "",
      read.regions ? word("labels.regions", { count: read.regions }) : "",
    ];
    say([word("labels.read", { file: read.file, count: read.truth.length }), ...left].filter(Boolean).join(" "));
    go("matching");
  }

  /** Reads labels of a picture, which get them if it is still shown then. @param {OpenPicture} picture @param {File[]} labels */
  async function readInto(picture, labels) {
    const texts = await Promise.all(labels.map(async (file) => ({ name: oneLine(file.name), text: await file.text() })));
    const read = readLabels(texts, picture, model.classes);
    if (state.values.picture === picture) state.set({ truth: read.truth, truthName: read.file });
    return read;
  }

  /** @param {string} name */
  const go = (name) => {
    if (location.hash !== `#${name}`) location.hash = name;
    else draw();
  };

  function draw() {
    leave();
    const focused = document.activeElement;
    const view = views.find(({ name }) => location.hash === `#${name}`) ?? views[0];
    /** @type {Context} */
    const context = { client, model, state, word, number: numbersOf(language), say, attempt, open, look, receive, go };
    document.documentElement.lang = language;
    document.title = `${word(`view.${view.name}`)} – opendetr`;
    const place = element("main", { id: "view", tabIndex: -1, class: `view-${view.name}`, "aria-busy": isWorking }, element("h1", { class: "hidden" }, word(`view.${view.name}`)));
    document.body.replaceChildren(
      element("a", { href: "#view", class: "skip", onclick: (/** @type {Event} */ event) => { event.preventDefault(); place.focus(); } }, word("frame.skip")),
      header(view.name), place, element("footer", { class: "messages" }, notice, alarm));
    leave = view.draw(place, context) ?? (() => {});
    if (focused !== document.body && !focused?.isConnected) place.focus({ preventScroll: true }); // not lost to the page's start
  }

  /** @param {string} current */
  function header(current) {
    const select = element("select", { "aria-label": word("frame.language"), onchange: () => {
      language = select.value;
      word = wordsOf(language);
      keep("language", language);
      say("");
      draw();
      document.querySelector("select")?.focus();
    } }, ...Object.entries(LANGUAGES).map(([value, name]) => element("option", { value, lang: value }, name)));
    select.value = language;
    return element("header", { class: "frame" },
      element("div", { class: "brand" }, element("img", { src: "icon.svg", alt: "", width: 24, height: 24 }), element("strong", {}, "opendetr"),
        element("span", { class: "quiet", title: model.name }, model.name)),
      element("nav", { "aria-label": word("frame.views") }, ...views.map(({ name }) =>
        element("a", { href: `#${name}`, title: word(`view.${name}.what`), ...(name === current ? { "aria-current": "page" } : {}) }, word(`view.${name}`)))),
      element("div", { class: "row tools" }, about(), select, themeSwitch()));
  }

  /** What the model is: its facts in a dialog. */
  function about() {
    const list = element("dl", {});
    const dialog = element("dialog", { "aria-label": word("about.title") },
      element("h2", {}, word("about.title")), list, element("form", { method: "dialog" }, element("button", {}, word("about.close"))));
    return [button(word("about.open"), () => {
      list.replaceChildren(...facts().filter(([, value]) => value !== null).flatMap(([name, value, lang]) =>
        [element("dt", {}, name), element("dd", lang ? { lang } : {}, value)]));
      dialog.showModal();
    }, { class: "plain" }), dialog];
  }

  /** Name, value, and the value's language where it is another than the page's. @returns {[string, string|null, string?][]} */
  function facts() {
    const number = numbersOf(language);
    const engine = client.engine?.();
    /** @param {import("./model/agreement.js").Agreement} found */
    const agreed = ({ agreeing, count, apart }) => word("certificate.agreed", { agreeing, count, apart: apart.toExponential(0) });
    /** @param {import("./types.js").Engine} of */
    const trial = ({ trial: found, isLost }) => {
      if (isLost) return word("engine.lost");
      if (!found?.agreement) return word(found === undefined ? "certificate.untried" : found ? "certificate.cannot" : "certificate.none");
      const [wasm, gpu] = found.milliseconds.map((time) => number(time));
      return `${word(found.isUsed ? "certificate.used" : "certificate.unused", { wasm, gpu })} ${agreed(found.agreement)}`;
    };
    return [
      [word("about.model"), model.name],
      [word("about.classes"), model.classes.filter(({ category_id }) => category_id !== null).map(({ name }) => name).join(", ")],
      [word("about.parameters"), model.parameters === null ? null : number(model.parameters)],
      [word("about.queries"), model.query_source === null ? null : `${number(model.num_queries)} (${word(`about.${model.query_source}`)})`],
      [word("about.layers"), model.decoder_layers === null ? null : `${model.encoder_layers} + ${model.decoder_layers}`],
      [word("about.engine"), `${engine?.name ?? model.engine}, ${model.precision}`],
      ...Object.entries(model.certificate ?? {}).filter(([, value]) => typeof value !== "object")
        .map(([name, value]) => /** @type {[string, string, string]} */ ([CERTIFIED.includes(name) ? word(`certificate.${name}`) : name, String(value), "en"])),
      [word("certificate.browser"), engine ? agreed(engine.agreement) : null],
      ["WebGPU", engine ? trial(engine) : null],
      [word("about.version"), model.version],
    ];
  }

  function themeSwitch() {
    const isDark = () => (kept("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    const press = button("", () => {
      keep("theme", isDark() ? "light" : "dark");
      tell();
    }, { class: "plain" });
    const tell = () => {
      const other = isDark() ? "light" : "dark";
      press.textContent = word(`frame.${other}`);
      press.setAttribute("aria-label", word(`frame.to_${other}`));
      showTheme();
    };
    tell();
    return press;
  }

  takeIn(receive);
  addEventListener("hashchange", () => {
    draw();
    document.getElementById("view")?.focus({ preventScroll: true });
  });
  say("");
  draw();
}

function showTheme() {
  const theme = kept("theme");
  if (theme) document.documentElement.dataset.theme = theme;
}

/** What is dropped anywhere on the page, or pasted. @param {Context["receive"]} receive */
function takeIn(receive) {
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer?.files.length) void receive(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) void receive(event.clipboardData.files);
  });
}

/** Shows the curves of a run that has no model yet, until it has one. @param {DataClient} data */
async function firstModel(data) {
  const begun = await data.run().catch(() => null); // the model is of no run
  if (!begun || begun.ready) return;
  const place = element("main", { id: "view" }, element("h1", {}, oneLine(begun.name)), element("p", {}, word("learning.no_model")));
  document.documentElement.lang = language;
  document.title = `${word("view.learning")} – opendetr`;
  document.body.replaceChildren(place, element("footer", { class: "messages" }, notice, alarm));
  say("");
  await new Promise((resolve) => {
    const end = runCurves(place, { data, word, number: numbersOf(language), attempt }, ({ ready }) => {
      if (!ready) return;
      end();
      resolve(undefined);
    });
  });
  sayWorking(word("frame.starting"));
}

showTheme();
document.body.replaceChildren(element("main", {}), element("footer", { class: "messages" }, notice, alarm));
sayWorking(word("frame.starting"));
void attempt(async () => {
  const client = await findClient();
  if (client.data) await firstModel(client.data);
  const model = await client.model();
  run(client, { ...model, name: oneLine(model.name), classes: model.classes.map((one) => ({ ...one, name: oneLine(one.name) })) });
});
