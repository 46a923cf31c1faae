/** A list that is walked with the arrow keys; Enter selects, Escape goes back. Screen readers get it as a list box. */

import { element, newId } from "../elements.js";

/**
 * @typedef {object} Row
 * @property {string} text
 * @property {string} [value] at its end
 * @property {string} [note] under it
 * @property {string} [colour] of a mark before it
 *
 * @typedef {object} Listeners
 * @property {(place: number|null) => void} walk to a row, by arrow keys or mouse; null: away from all
 * @property {(place: number|null) => void} choose a row; null: none
 */

export class Listing {
  /** @param {string} label @param {string} empty stands there while no row does @param {Listeners} listeners */
  constructor(label, empty, listeners) {
    this.listeners = listeners;
    this.id = newId("list");
    this.list = element("ul", { class: "listing", role: "listbox", tabIndex: 0, "aria-label": label });
    this.empty = element("p", { class: "quiet" }, empty);
    this.list.hidden = this.empty.hidden = true; // nothing is known yet
    this.element = element("div", {}, this.list, this.empty);
    this.at = -1; // the row that is walked to
    this.list.addEventListener("keydown", (event) => this.press(event));
    this.list.addEventListener("blur", () => this.walk(-1));
    this.list.addEventListener("pointerleave", () => this.walk(-1));
  }

  /** @param {Row[]} rows @param {number} [chosen] place of the selected row; -1: none */
  show(rows, chosen = -1) {
    this.chosen = Math.max(chosen, -1);
    this.list.hidden = !rows.length;
    this.empty.hidden = rows.length > 0;
    // Rows are kept: a press and its release find the same one, whatever frames of a live picture come meanwhile.
    while (this.list.children.length > rows.length) this.list.lastElementChild?.remove();
    while (this.list.children.length < rows.length) this.list.append(this.row(this.list.children.length));
    rows.forEach(({ text, value = "", note = "", colour = "" }, place) => {
      const row = /** @type {HTMLElement} */ (this.list.children[place]);
      row.setAttribute("aria-selected", String(place === chosen));
      const [mark, ...texts] = /** @type {HTMLElement[]} */ ([...row.children]);
      mark.style.background = colour;
      mark.hidden = !colour;
      [text, value, note].forEach((said, at) => {
        if (texts[at].textContent !== said) texts[at].textContent = said;
        texts[at].hidden = !said;
      });
    });
    if (this.at >= rows.length) this.at = -1;
    this.mark();
  }

  /** @param {number} place */
  row(place) {
    return element("li", {
      role: "option", id: `${this.id}-${place}`,
      onclick: () => this.listeners.choose(place), onpointerenter: () => this.walk(place),
    }, element("span", { class: "mark", "aria-hidden": "true" }), ...["text", "digits", "note"].map((name) => element("span", { class: name })));
  }

  /** @param {number} place -1: away */
  walk(place) {
    if (place === this.at) return;
    this.at = place;
    this.mark();
    this.listeners.walk(place < 0 ? null : place);
  }

  mark() {
    [...this.list.children].forEach((row, place) => row.classList.toggle("at", place === this.at));
    if (this.at < 0) this.list.removeAttribute("aria-activedescendant");
    else this.list.setAttribute("aria-activedescendant", `${this.id}-${this.at}`);
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const last = this.list.children.length - 1;
    const from = this.at < 0 ? this.chosen ?? -1 : this.at;
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowDown: () => this.walk(Math.min(from + 1, last)),
      ArrowUp: () => this.walk(from < 0 ? last : Math.max(from - 1, 0)),
      Home: () => this.walk(0),
      End: () => this.walk(last),
      Enter: () => from >= 0 && this.listeners.choose(from),
      " ": () => from >= 0 && this.listeners.choose(from),
      Escape: () => {
        this.walk(-1);
        this.listeners.choose(null);
      },
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
    // Not `scrollIntoView`, which would move the page away from the picture.
    const row = /** @type {HTMLElement|undefined} */ (this.list.children[this.at]);
    if (row) {
      if (row.offsetTop < this.list.scrollTop) this.list.scrollTop = row.offsetTop;
      else if (row.offsetTop + row.offsetHeight > this.list.scrollTop + this.list.clientHeight) {
        this.list.scrollTop = row.offsetTop + row.offsetHeight - this.list.clientHeight;
      }
    }
  }
}
