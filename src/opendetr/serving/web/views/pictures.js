/** Where pictures come from beside dropping and pasting: a file, the camera's photograph, its live picture. */

import { button, element, fileButton } from "../elements.js";

/** @import { Context } from "../types.js" */
/** @import { Stage } from "./stage.js" */

const KEPT = 100; // latencies of which the median and the 95th percentile are told

/**
 * @param {Context} context
 * @param {Stage} stage on which the live picture is shown
 * @param {() => void} changed called when the live picture begins and ends
 */
export function pictureButtons({ client, state, word, number, say, attempt, open, receive }, stage, changed) {
  const video = element("video", { muted: true, playsInline: true });
  /** @type {MediaStream|null} */
  let stream = null;
  let isStarting = false;
  let isClosed = false;
  /** @type {ImageBitmap|null} */
  let frame = null;
  const live = button(word("camera.start"), () => (stream ? stop() : start()), { "aria-pressed": "false" });
  const keep = button(word("camera.keep"), () => void still(), { hidden: true });
  const latency = element("p", { class: "quiet small digits" });

  async function start() {
    // Only pages of this computer or behind TLS have cameras.
    const devices = navigator.mediaDevices;
    if (!devices) return say(word("error.camera_place"), true);
    if (isStarting) return;
    starting(true);
    const { picture } = state.values;
    /** @type {MediaStream|null} */
    let own = null;
    try {
      own = await devices.getUserMedia({ video: { facingMode: "environment" } });
      video.srcObject = own;
      await video.play();
    } catch (error) {
      end(own);
      if (!isClosed) say(word("error.camera", { sentence: /** @type {Error} */ (error).message }), true);
      return starting(false);
    }
    starting(false);
    if (isClosed || picture !== state.values.picture) return end(own); // the reader went on meanwhile
    stream = own;
    state.set({ picture: null, result: null, chosen: null, truth: null });
    stage.show({ picture: null, heat: null, point: null, boxes: [] });
    say("");
    show();
    void detectOn(stream);
  }

  /** A button that were disabled would lose the focus. @param {boolean} now */
  function starting(now) {
    isStarting = now;
    live.setAttribute("aria-disabled", String(now));
  }

  /** @param {MediaStream|null} own */
  function end(own) {
    for (const track of own?.getTracks() ?? []) track.stop();
    if (video.srcObject === own) video.srcObject = null;
  }

  /** Detects in one frame after the other until the stream ends. @param {MediaStream} own */
  async function detectOn(own) {
    /** @type {number[]} */
    const times = [];
    while (stream === own) {
      const [next, blob] = await capture();
      const begun = performance.now();
      const result = await attempt(() => client.detect(blob));
      if (stream !== own) return next.close();
      if (!result) {
        next.close();
        return stop();
      }
      times.push(performance.now() - begun);
      if (times.length > KEPT) times.shift();
      stage.show({ picture: next, width: next.width, height: next.height });
      frame?.close();
      frame = next;
      state.set({ result });
      latency.textContent = word("camera.latency", { p50: number(quantile(times, 0.5)), p95: number(quantile(times, 0.95)), count: times.length });
    }
  }

  /** @returns {Promise<[ImageBitmap, Blob]>} the frame that the camera shows now */
  async function capture() {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d")).drawImage(video, 0, 0);
    return [await createImageBitmap(canvas), await canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 })];
  }

  /** Ends the live picture with its last frame, which can be looked into. */
  async function still() {
    const [made, blob] = await capture();
    made.close();
    await open(blob, word("camera.name"));
  }

  function stop() {
    state.set({ result: null });
    endLive();
  }

  /** Ends the live picture; what was found stays. */
  function endLive() {
    if (!stream) return;
    end(stream);
    stream = null;
    show();
    stage.show({ picture: state.values.picture?.bitmap ?? null });
    frame?.close();
    frame = null;
  }

  // A picture that comes from anywhere ends the live one.
  const forget = state.listen(["picture"], () => state.values.picture && endLive());

  function show() {
    live.textContent = word(stream ? "camera.stop" : "camera.start");
    live.setAttribute("aria-pressed", String(Boolean(stream)));
    keep.hidden = latency.hidden = !stream;
    if (!stream) latency.textContent = "";
    changed();
  }

  return {
    element: element("div", {}, element("div", { class: "row sources" },
      chooseButton({ word, receive }),
      fileButton(word("detect.photograph"), receive, { accept: "image/*", capture: "environment", multiple: false }), live, keep), latency),
    isLive: () => stream !== null,
    close: () => {
      isClosed = true;
      forget();
      if (stream) stop();
    },
  };
}

/**
 * What a view shows that has no picture yet: says so, with a button to choose one. Whether it had to.
 *
 * @param {HTMLElement} place
 * @param {Context} context
 */
export function needsPicture(place, { state, word, receive }) {
  if (state.values.picture) return false;
  place.append(element("div", { class: "empty" }, element("p", {}, word("detect.drop")), chooseButton({ word, receive })));
  return true;
}

/** @param {Pick<Context, "word"|"receive">} context */
function chooseButton({ word, receive }) {
  const chooser = fileButton(word("detect.choose"), receive, { accept: "image/*,.json,.txt,.xml" });
  chooser.classList.add("strong");
  return chooser;
}

/** The value below which a share of the values lies. @param {number[]} values @param {number} share */
function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}
