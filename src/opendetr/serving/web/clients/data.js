/** What a server knows of a data set, of its label review and of the run whose model it serves. */

import { Failure } from "../failure.js";
import { form } from "./form.js";

/**
 * @import { Server } from "./http.js"
 * @import { Box, Picture, Truth } from "../types.js"
 *
 * @typedef {object} Surveyed what became of a picture's objects and detections
 * @property {number} objects
 * @property {number} detections
 * @property {Record<string, number>} missed by their reasons
 * @property {Record<string, number>} false_alarms by their kinds
 * @property {[number, number][]} confusions labels: the true one, and the one that was found
 * @property {number} error 1 minus F1
 * @property {string} [problem] why the picture cannot be used
 *
 * @typedef {object} Listed a picture of the gallery
 * @property {number} number
 * @property {string} name
 * @property {number} width
 * @property {number} height
 * @property {number} objects
 * @property {Surveyed|null} survey
 *
 * @typedef {object} Progress of a survey, and what it says of the split so far
 * @property {"none"|"running"|"done"} state
 * @property {number} done
 * @property {number} pictures
 * @property {number} objects
 * @property {number} detections
 * @property {Record<string, number>} missed
 * @property {Record<string, number>} false_alarms
 * @property {{true: number, found: number, count: number}[]} confusions
 * @property {string[]} problems
 *
 * @typedef {number|string} Id
 *
 * @typedef {object} Entry of the queue of a review
 * @property {string} key
 * @property {number} picture
 * @property {string} name
 * @property {Id} image_id
 * @property {number} width
 * @property {number} height
 * @property {"missing label"|"wrong class"|"badly placed"|"nothing there"} fault
 * @property {"add"|"class"|"move"|"delete"} edit what is proposed
 * @property {Id|null} annotation
 * @property {number} iou
 * @property {number} score
 * @property {number} given_score
 * @property {Id} category_id that is proposed
 * @property {string} class its name
 * @property {string|null} given the name of the label's class
 * @property {[number, number, number, number]} bbox x, y, width, height
 * @property {number[]} decisions about it that count
 *
 * @typedef {object} Review
 * @property {number} version
 * @property {string} file
 * @property {boolean} beside
 * @property {string|null} problem why the corrected file could not be written
 * @property {number} left_out suspects that cannot be shown
 * @property {{category_id: Id, name: string}[]} classes
 * @property {Progress} survey
 * @property {number} total
 * @property {number} decided
 * @property {number} edits
 * @property {number} live
 * @property {Entry[]} queue
 *
 * @typedef {object} Decision
 * @property {"add"|"move"|"class"|"delete"|"keep"} edit
 * @property {Id} image_id
 * @property {Id} [annotation]
 * @property {Id} [category_id]
 * @property {number[]} [bbox]
 * @property {boolean} [accepted]
 *
 * @typedef {object} Label of a picture in review
 * @property {Id} annotation
 * @property {Id} category_id
 * @property {string} name
 * @property {Box} box_xyxy
 */

/** @typedef {ReturnType<typeof dataClient>} DataClient */

/** @param {Server} server */
export function dataClient(server) {
  const of = (/** @type {string} */ split, rest = "") => `v1/data/${encodeURIComponent(split)}${rest}`;
  const reviewOf = (/** @type {string} */ split, rest = "") => `v1/review/${encodeURIComponent(split)}${rest}`;

  /** Asks once: what changes something must not be done twice. @param {string} path @param {object} [body] */
  async function change(path, body) {
    const answer = await server.once(path, {
      method: "POST", ...(body ? { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : {}),
    });
    if (answer === null) throw new Failure("unsaved");
    if (answer.ok) return answer.json();
    const sentence = await answer.json().then(({ error }) => error, () => answer.statusText);
    throw answer.status === 409 ? new Failure("conflict", { sentence }) : new Failure("server", { sentence, status: answer.status });
  }

  return {
    /** @param {string} split @param {Record<string, string|number>} query @returns {Promise<{total: number, pictures: Listed[]}>} */
    pictures: (split, query) =>
      server.json(of(split, `/pictures?${new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)]))}`)),
    /** @param {string} split @param {number} number @returns {Promise<{name: string, truth: (Truth & {used: boolean})[]}>} */
    picture: (split, number) => server.json(of(split, `/pictures/${number}`)),
    /** @param {string} split @param {number} number @param {"image"|"thumbnail"} [kind] */
    image: async (split, number, kind = "image") => (await server.ask(of(split, `/pictures/${number}/${kind}`))).blob(),
    /** @param {string} split @returns {Promise<Progress>} */
    beginSurvey: (split) => change(of(split, "/survey")),
    /** @param {string} split @returns {Promise<Progress>} */
    survey: (split) => server.json(of(split, "/survey")),
    /** @param {string} split @param {number} limit @returns {Promise<Review>} */
    review: (split, limit) => server.json(reviewOf(split, `?limit=${limit}`)),
    /** @param {string} split @param {number} number @returns {Promise<{objects: Label[]}>} */
    labels: (split, number) => server.json(reviewOf(split, `/pictures/${number}`)),
    /** @param {string} split @param {number} version @param {Decision} decision */
    decide: (split, version, decision) => change(reviewOf(split, "/decisions"), { version, decision }),
    /** @param {string} split @param {number} version @returns {Promise<{version: number, undone: (Decision & {number: number})|null}>} */
    undo: (split, version) => change(reviewOf(split, "/undo"), { version }),
    /** @returns {Promise<{name: string, ready: boolean, checkpoints: {name: string, epoch: number}[]}>} */
    run: () => server.json("v1/run"),
    /** @param {number} after @returns {Promise<{lines: Record<string, any>[], next: number, reset: boolean}>} */
    log: (after) => server.json(`v1/run/log?after=${after}`),
    /** @param {Blob} picture @param {string} checkpoint @returns {Promise<Picture>} */
    detectAt: (picture, checkpoint) => server.json(`v1/run/detect?checkpoint=${encodeURIComponent(checkpoint)}`, form(picture)),
  };
}
