/** Labels that lie beside a picture: a COCO file, a YOLO text or a Pascal VOC file. */

import { Failure } from "../failure.js";
import { oneLine } from "./wording.js";

/**
 * @import { Box, Class, Truth } from "../types.js"
 *
 * @typedef {object} LabelFile
 * @property {string} name
 * @property {string} text
 *
 * @typedef {object} Labels
 * @property {Truth[]} truth
 * @property {string[]} others names of classes that the model does not have, whose objects are left out
 * @property {number} regions crowds and difficult objects, which are left out
 * @property {string} file that they came from
 */

const CLASS_FILES = ["classes.txt", "obj.names", "labels.txt", "_darknet.labels"];

/** Whether a file may hold labels, by the end of its name. @param {string} name */
export const isLabelFile = (name) => /\.(json|txt|xml|names|labels)$/i.test(name);

/**
 * The labels of a picture. Boxes are cut at its sides; those without an area are left out.
 *
 * @param {LabelFile[]} files of which one has the labels; beside it a YOLO text may have its classes' names
 * @param {{name: string, width: number, height: number}} picture
 * @param {Class[]} classes
 * @returns {Labels}
 * @throws {Failure} none has labels of this picture
 */
export function readLabels(files, picture, classes) {
  const isNames = (/** @type {LabelFile} */ { name }) => CLASS_FILES.includes(name.toLowerCase());
  const names = files.find(isNames)?.text.split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
  const holding = files.filter((file) => !isNames(file));
  const file = holding.find(({ name }) => stem(name) === stem(picture.name)) ?? holding[0];
  if (!file) throw new Failure("labels_only_names", { file: files[0].name });
  const read = file.name.toLowerCase().endsWith(".json") ? fromCoco : file.name.toLowerCase().endsWith(".xml") ? fromVoc : fromYolo;
  /** @type {Labels} */
  const labels = { truth: [], others: [], regions: 0, file: file.name };
  const labelOf = byName(classes);
  for (const { name, label = labelOf(/** @type {string} */ (name)), box, region } of read(file, picture, classes, names)) {
    const box_xyxy = cut(box, picture);
    if (region) labels.regions += 1;
    else if (label === undefined) labels.others.push(String(name));
    else if (box_xyxy[2] > box_xyxy[0] && box_xyxy[3] > box_xyxy[1]) labels.truth.push({ label, box_xyxy });
  }
  labels.others = [...new Set(labels.others)];
  if (!labels.truth.length && labels.others.length) {
    throw new Failure("labels_classes", { file: file.name, names: oneLine(labels.others.slice(0, 5).join(", ")) });
  }
  return labels;
}

/**
 * @typedef {{name?: string, label?: number, box: Box, region?: boolean}} Entry
 * @typedef {(file: LabelFile, picture: {name: string, width: number, height: number}, classes: Class[], names?: string[]) => Entry[]} Reader
 */

/** @type {Reader} */
function fromCoco({ name: file, text }, picture) {
  /** @type {any} */
  let content;
  try {
    content = JSON.parse(text);
  } catch (error) {
    throw new Failure("labels_json", { file, sentence: /** @type {Error} */ (error).message });
  }
  if (![content?.images, content?.annotations, content?.categories].every(Array.isArray)) throw new Failure("labels_not_coco", { file });
  const own = content.images.find((/** @type {any} */ image) => base(String(image?.file_name)) === base(picture.name));
  const image = own ?? (content.images.length === 1 ? content.images[0] : undefined);
  if (!image) throw new Failure("labels_no_picture", { file, picture: picture.name, count: content.images.length });
  sameSize(file, picture, Number(image.width), Number(image.height));
  const names = new Map(content.categories.map((/** @type {any} */ category) => [category?.id, String(category?.name)]));
  return content.annotations.filter((/** @type {any} */ one) => one?.image_id === image.id).map((/** @type {any} */ one, /** @type {number} */ at) => {
    const [x, y, width, height] = numbers(one.bbox, 4, file, `annotations[${at}].bbox`);
    return { name: names.get(one.category_id) ?? String(one.category_id), box: [x, y, x + width, y + height], region: one.iscrowd === 1 };
  });
}

/** @type {Reader} */
function fromYolo({ name: file, text }, { width, height }, classes, names) {
  const lines = text.split(/\r?\n/).map((line, at) => ({ line: line.trim(), at: at + 1 })).filter(({ line }) => line);
  return lines.map(({ line, at }) => {
    const [first, ...columns] = line.split(/\s+/);
    const number = Number(first);
    const values = columns.map(Number);
    const isPolygon = values.length >= 6 && values.length % 2 === 0;
    if (!/^\d+$/.test(first) || values.some((value) => !Number.isFinite(value)) || !(isPolygon || values.length === 4 || values.length === 5)) {
      throw new Failure("labels_line", { file, line: at, text: oneLine(line.slice(0, 60)) });
    }
    if (number >= (names ?? classes).length) throw new Failure("labels_number", { file, line: at, number, count: (names ?? classes).length });
    const [xs, ys] = [0, 1].map((odd) => values.filter((_, place) => place % 2 === odd));
    const [x, y, w, h] = values;
    /** @type {Box} */
    const shares = isPolygon ? [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)] : [x - w / 2, y - h / 2, x + w / 2, y + h / 2];
    const box = /** @type {Box} */ (shares.map((value, place) => value * (place % 2 ? height : width)));
    return names ? { name: names[number], box } : { label: number, name: first, box };
  });
}

/** @type {Reader} */
function fromVoc({ name: file, text }, picture) {
  const root = new DOMParser().parseFromString(text, "application/xml");
  if (root.querySelector("parsererror")) throw new Failure("labels_xml", { file });
  if (root.documentElement.tagName !== "annotation") throw new Failure("labels_not_voc", { file, tag: oneLine(root.documentElement.tagName) });
  const textOf = (/** @type {Element} */ node, /** @type {string} */ path) => node.querySelector(path)?.textContent?.trim();
  sameSize(file, picture, Number(textOf(root.documentElement, "size > width")), Number(textOf(root.documentElement, "size > height")));
  return [...root.querySelectorAll("annotation > object")].map((node) => {
    const name = textOf(node, ":scope > name") ?? "";
    const corners = ["xmin", "ymin", "xmax", "ymax"].map((tag) => textOf(node, `:scope > bndbox > ${tag}`) || undefined);
    return { name, box: /** @type {Box} */ (numbers(corners, 4, file, `bndbox (${name})`)), region: textOf(node, ":scope > difficult") === "1" };
  });
}

/**
 * Numbers of a file.
 *
 * @param {unknown} values @param {number} count @param {string} file @param {string} what names them
 */
function numbers(values, count, file, what) {
  const read = Array.isArray(values) ? values.map((value) => (typeof value === "string" || typeof value === "number" ? Number(value) : NaN)) : [];
  if (read.length !== count || !read.every(Number.isFinite)) throw new Failure("labels_box", { file, what });
  return read;
}

/** @param {string} file @param {{name: string, width: number, height: number}} picture @param {number} width @param {number} height */
function sameSize(file, picture, width, height) {
  if (width > 0 && height > 0 && (width !== picture.width || height !== picture.height)) {
    throw new Failure("labels_size", { file, width, height, picture: picture.name, own: `${picture.width} × ${picture.height}` });
  }
}

/** The index of a class by its name, whatever its capitals where that is clear. @param {Class[]} classes */
function byName(classes) {
  const known = new Map(classes.map(({ name, label }) => [name.toLowerCase(), label]));
  for (const { name, label } of classes) known.set(name, label);
  return (/** @type {string} */ name) => known.get(name) ?? known.get(name.toLowerCase());
}

/** @param {Box} box @param {{width: number, height: number}} picture @returns {Box} */
const cut = ([x1, y1, x2, y2], { width, height }) =>
  [Math.max(0, Math.min(x1, width)), Math.max(0, Math.min(y1, height)), Math.max(0, Math.min(x2, width)), Math.max(0, Math.min(y2, height))];

/** @param {string} name */
const base = (name) => name.split(/[\\/]/).at(-1) ?? "";
/** @param {string} name */
const stem = (name) => base(name).replace(/\.[^.]*$/, "");
