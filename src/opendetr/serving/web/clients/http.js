/** The page's client for `opendetr serve`. */

import { Failure } from "../failure.js";
import { dataClient } from "./data.js";
import { form } from "./form.js";
import { readLook } from "../model/tensors.js";

/**
 * @import { Client } from "../types.js"
 *
 * @typedef {object} Connection what the page does beside a request
 * @property {(event: "gone"|"back"|"busy"|"restarting", values?: Record<string, number>) => void} tell
 * @property {() => Promise<string|null>} askKey the API key, from the reader
 */

const WAITS = [500, 1000, 2000, 4000]; // milliseconds between tries where the server has no place or no model
const LONGEST_WAIT = 5000;
const PATIENCE = 1000; // between looks for a server that is gone

/** @param {number} milliseconds */
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Server {
  /** @param {Connection} connection */
  constructor(connection) {
    this.connection = connection;
    this.key = "";
    /** @type {Promise<void>|null} */
    this.return = null; // settles when a server that is gone is back
  }

  /**
   * The answer to a request. Waits for a server that is gone, and asks again where it is full or its model starts anew:
   * no route that is asked in this way changes anything.
   *
   * @param {string} path
   * @param {RequestInit} [options]
   * @returns {Promise<Response>}
   */
  async ask(path, options = {}) {
    let isBack = false; // the server answered just now
    for (let tries = 0; ; ) {
      const answer = await this.once(path, options);
      if (answer === null) {
        if (isBack) throw new Failure("unsent"); // it is not the server's fault
        await (this.return ??= this.wait());
        isBack = true;
      } else if (answer.status === 401) {
        const key = await this.connection.askKey();
        if (key === null) throw new Failure("key");
        this.key = key;
      } else if ((answer.status === 429 || answer.status === 503) && tries < WAITS.length) {
        const told = 1000 * Number(answer.headers.get("retry-after"));
        this.connection.tell(answer.status === 429 ? "busy" : "restarting", { number: tries + 1, of: WAITS.length });
        await pause(Math.min(told || WAITS[tries], LONGEST_WAIT));
        tries += 1;
      } else if (answer.ok) {
        return answer;
      } else {
        throw await failureOf(answer);
      }
    }
  }

  /** The answer's JSON. @param {string} path @param {RequestInit} [options] */
  async json(path, options) {
    return (await this.ask(path, options)).json();
  }

  /**
   * One try; null where no server answers.
   *
   * @param {string} path
   * @param {RequestInit} options
   */
  async once(path, options) {
    const headers = new Headers(options.headers);
    if (this.key) headers.set("Authorization", `Bearer ${this.key}`);
    try {
      return await fetch(path, { ...options, headers });
    } catch (error) {
      if (error instanceof TypeError) return null; // the browser's word for any failure of the network
      throw error;
    }
  }

  async wait() {
    this.connection.tell("gone");
    do await pause(PATIENCE); while (!(await this.once("healthz", { cache: "no-store" }))?.ok);
    this.return = null;
    this.connection.tell("back");
  }
}

/** @param {Response} answer */
async function failureOf(answer) {
  const kinds = /** @type {Record<number, string>} */ ({ 413: "too_large", 415: "not_picture", 429: "full", 503: "restarting", 504: "late" });
  const sentence = await answer.json().then((body) => body.error, () => undefined);
  const kind = kinds[answer.status];
  return kind ? new Failure(kind) : new Failure("server", { sentence: String(sentence ?? answer.statusText), status: answer.status });
}

/** @param {Record<string, string|number|undefined>} values */
function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== undefined).map(([name, value]) => [name, String(value)]);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

/**
 * @param {Server} server
 * @returns {Client}
 */
export function httpClient(server) {
  return {
    model: () => server.json("v1/model"),
    detect: async (picture, threshold) =>
      (await server.json(`v1/detect${query({ threshold: threshold ?? 0.05 })}`, form(picture))).pictures[0],
    look: async (picture, checkpoint) => {
      const answer = await server.ask(`v1/look${query({ checkpoint })}`, form(picture));
      return readLook(await answer.arrayBuffer());
    },
    data: dataClient(server),
    match: (picture, truth, threshold) =>
      server.json("v1/match", form(picture, {
        truth: JSON.stringify(truth),
        ...(threshold === undefined ? {} : { threshold: String(threshold) }),
      })),
  };
}
