/** What is on the page, in one place: views read it, change it by `set` and hear of changes. */

/**
 * @import { Matching, Model, OpenPicture, Picture, Truth, Look } from "./types.js"
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
 * @property {number[]} thresholds one per class
 * @property {ReadonlySet<number>} hidden classes that are switched off
 * @property {number|null} query that is selected
 * @property {Seen[]} seen the last pictures, newest last
 * @property {{layer: number, head: number, kind: string, prior: boolean, opacity: number}} inside what Inside shows;
 *     head -1 is the mean of all
 * @property {{x: number, y: number}|null} point of the picture that was clicked
 */

const KEPT = 20;

export class State {
  /** @param {Model} model */
  constructor(model) {
    /** @type {Values} */
    this.values = {
      picture: null, result: null, truth: null, truthName: "", thresholds: [...model.thresholds], hidden: new Set(),
      query: null, seen: [], point: null,
      inside: { layer: model.decoder_layers - 1, head: -1, kind: "query", prior: true, opacity: 0.6 },
    };
    /** @type {Set<{names: (keyof Values)[], hear: () => void}>} */
    this.listeners = new Set();
    /** @type {{blob: Blob, answer: Promise<Look>}|null} */
    this.look = null;
  }

  /** Changes values; who listens to one of them hears once. @param {Partial<Values>} changes */
  set(changes) {
    Object.assign(this.values, changes);
    for (const { names, hear } of [...this.listeners]) if (names.some((name) => name in changes)) hear();
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
    const { result, thresholds, hidden } = this.values;
    return (result?.detections ?? []).filter(({ label, score }) => score >= thresholds[label] && !hidden.has(label));
  }

  /** Keeps what was answered for a picture among the last 20. @param {string} name @param {Picture} result */
  remember(name, result) {
    this.set({ seen: [...this.values.seen, { name, result }].slice(-KEPT) });
  }
}
