/** What is on the page, in one place: views read it, change it by `set` and hear of changes. */

/**
 * @import { Detection, Model, OpenPicture, Picture, Truth } from "./types.js"
 *
 * @typedef {object} Seen a picture that this page has shown
 * @property {string} name
 * @property {Picture} result
 *
 * @typedef {object} Values
 * @property {OpenPicture|null} picture
 * @property {Picture|null} result all detections from score 0.05 on
 * @property {Truth[]|null} truth labels of the picture
 * @property {string} truthName where they came from
 * @property {number|null} threshold for all classes; null: the model's own
 * @property {ReadonlySet<number>} hidden classes that are switched off
 * @property {Detection|null} chosen whose query is selected
 * @property {Seen[]} seen the last pictures, newest last
 * @property {Inside} inside
 * @property {{x: number, y: number}|null} point of the picture that was chosen
 *
 * @typedef {object} Inside what the view of that name shows
 * @property {"query"|"rollout"|"pixel"|"readers"} kind
 * @property {number} layer of the decoder, from 0
 * @property {number} encoderLayer
 * @property {number} head -1: the mean of all
 * @property {boolean} prior with the focus prior
 * @property {number} opacity of the heat map
 */

const KEPT = 20;

export class State {
  /** @param {Model} model */
  constructor(model) {
    /** @type {Values} */
    this.values = {
      picture: null, result: null, truth: null, truthName: "", threshold: null, hidden: new Set(),
      chosen: null, seen: [], point: null,
      inside: {
        kind: "query", layer: model.decoder_layers - 1, encoderLayer: model.encoder_layers - 1, head: -1, prior: true, opacity: 0.65,
      },
    };
    this.model = model;
    /** @type {Set<{names: (keyof Values)[], hear: () => void}>} */
    this.listeners = new Set();
    /** @type {{blob: Blob, answer: Promise<Look|undefined>}|null} */
    this.look = null;
  }

  /** Changes values; who listens to one of them hears once. @param {Partial<Values>} changes */
  set(changes) {
    const { picture } = this.values;
    Object.assign(this.values, changes);
    for (const { names, hear } of [...this.listeners]) if (names.some((name) => name in changes)) hear();
    // After who listens has shown another one; a browser frees its memory late by itself.
    if (picture && picture !== this.values.picture) picture.bitmap.close();
  }

  /**
   * Calls `hear` after changes of some values; gives what ends that.
   *
   * @param {(keyof Values)[]} names
   * @param {() => void} hear
   */
  listen(names, hear) {
    const listener = { names, hear };
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  /** The detections that reach the threshold of their class, of classes that are switched on; best first. */
  shown() {
    const { result, hidden } = this.values;
    return (result?.detections ?? []).filter(({ label, score }) => score >= this.thresholdOf(label) && !hidden.has(label));
  }

  /** @param {number} label */
  thresholdOf(label) {
    return this.values.threshold ?? this.model.thresholds[label];
  }

  /** @param {Partial<Inside>} changes */
  setInside(changes) {
    this.set({ inside: { ...this.values.inside, ...changes } });
  }

  /** Keeps what was answered for a picture among the last 20. @param {string} name @param {Picture} result */
  remember(name, result) {
    this.set({ seen: [...this.values.seen, { name, result }].slice(-KEPT) });
  }
}
