/** The reader's language and theme: what the browser prefers, or what was chosen and kept here. */

import { words as en } from "./words/en.js";
import { words as zh } from "./words/zh.js";

/** @type {Record<string, Record<string, string>>} */
const WORDS = { en, zh };
export const LANGUAGES = { en: "English", zh: "中文" };

/** What was chosen, where the browser keeps it. @param {string} name */
export function kept(name) {
  try {
    return localStorage.getItem(`opendetr.${name}`);
  } catch {
    return null; // the browser keeps nothing for this page
  }
}

/** @param {string} name @param {string} value */
export function keep(name, value) {
  try {
    localStorage.setItem(`opendetr.${name}`, value);
  } catch {
    // chosen until the page is closed
  }
}

/** The language that was chosen, or the first of the browser's that the page speaks. */
export function firstLanguage() {
  const wanted = [kept("language") ?? "", ...navigator.languages].map((name) => name.slice(0, 2).toLowerCase());
  return wanted.find((name) => name in WORDS) ?? "en";
}

/**
 * The texts of a language: `word("frame.views", {name: value})` fills `{name}`.
 *
 * @param {string} language
 * @returns {import("./types.js").Word}
 */
export function wordsOf(language) {
  return (key, values = {}) => {
    const text = WORDS[language][key];
    if (text === undefined) throw new Error(`no text named ${key} in ${language}`);
    return text.replaceAll(/\{(\w+)\}/g, (_, name) => String(values[name]));
  };
}

/** Numbers of a language. @param {string} language */
export function numbersOf(language) {
  return (/** @type {number} */ value, digits = 0) =>
    value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
