/** Elements of the page. Texts are others' (names of files and classes), so they only ever become text nodes. */

/** @typedef {string|number|Node|null|undefined|false} Child */

/**
 * An element with properties, attributes (those with a dash, `role` and `for`), listeners (`onclick`) and children.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Child|Child[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || ["role", "for", "list", "colspan", "scope"].includes(name)) made.setAttribute(name, String(value));
    else /** @type {any} */ (made)[name === "class" ? "className" : name] = value;
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false).map(
    (child) => (child instanceof Node ? child : String(child))));
  return made;
}

let count = 0;

/** An id that no other element has. @param {string} name */
export function newId(name) {
  count += 1;
  return `${name}-${count}`;
}

/**
 * A labelled control: the label stands before it.
 *
 * @param {string} text
 * @param {HTMLElement} control
 * @param {HTMLElement} [shown] an element that shows the control's value
 */
export function labelled(text, control, shown) {
  control.id ||= newId("control");
  return element("div", { class: "field" }, element("label", { for: control.id }, text), shown ?? null, control);
}

/**
 * A slider with its value in words beside its label; a screen reader reads the same words.
 *
 * @param {string} text
 * @param {{min: number, max: number, step?: number, value: number, shown: (value: number) => string,
 *     change: (value: number) => void}} options
 */
export function slider(text, { min, max, step = 1, value, shown, change }) {
  const output = element("output", { class: "value" });
  const input = element("input", { type: "range", min: String(min), max: String(max), step: String(step) });
  input.value = String(value);
  const tell = () => {
    const now = shown(Number(input.value));
    output.textContent = now;
    input.setAttribute("aria-valuetext", now);
  };
  input.addEventListener("input", () => {
    tell();
    change(Number(input.value));
  });
  tell();
  const field = labelled(text, input, output);
  return { field, input, set: (/** @type {number} */ to) => { input.value = String(to); tell(); } };
}

/** A button. @param {string} text @param {() => void} press @param {Record<string, any>} [properties] */
export function button(text, press, properties = {}) {
  return element("button", { type: "button", onclick: press, ...properties }, text);
}

/**
 * A button that chooses files.
 *
 * @param {string} text
 * @param {(files: File[]) => void} chosen
 * @param {Record<string, any>} [properties] of the input, such as `accept`
 */
export function fileButton(text, chosen, properties = {}) {
  const input = element("input", { type: "file", multiple: true, ...properties, onchange: () => {
    if (input.files?.length) chosen([...input.files]);
    input.value = ""; // the same file may be chosen again
  } });
  return element("label", { class: "file" }, text, input);
}
