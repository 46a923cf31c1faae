/** Numbers and names in sentences, as Python writes them. */

/**
 * A number with so many digits after the point, as Python's `{:.2f}`: halves go to the even digit, where
 * `Number.toFixed` goes up.
 *
 * @param {number} value
 * @param {number} digits
 */
export function fixed(value, digits) {
  const exact = Math.abs(value).toFixed(100); // the number itself: no double in use has more digits
  const point = exact.indexOf(".");
  const rounded = roundHalfEven(exact.replace(".", ""), point + digits).padStart(digits + 1, "0");
  const text = digits ? `${rounded.slice(0, -digits)}.${rounded.slice(-digits)}` : rounded;
  return value < 0 || Object.is(value, -0) ? `-${text}` : text;
}

/**
 * A number with so many significant digits, without zeros at the end, as Python's `{:.3g}`.
 *
 * @param {number} value
 * @param {number} digits
 */
export function general(value, digits) {
  if (value === 0) return Object.is(value, -0) ? "-0" : "0";
  const [mantissa, power] = Math.abs(value).toExponential(100).split("e");
  let exponent = Number(power);
  let kept = roundHalfEven(mantissa.replace(".", ""), digits);
  if (kept.length > digits) {
    kept = kept.slice(0, digits); // 9.996 has become 10.00
    exponent += 1;
  }
  const sign = value < 0 ? "-" : "";
  if (exponent < -4 || exponent >= digits) {
    const fraction = kept.slice(1).replace(/0+$/, "");
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${sign}${kept[0]}${fraction && "."}${fraction}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  const whole = exponent < 0 ? "0" : kept.slice(0, exponent + 1);
  const fraction = (exponent < 0 ? "0".repeat(-exponent - 1) + kept : kept.slice(exponent + 1)).replace(/0+$/, "");
  return `${sign}${whole}${fraction && "."}${fraction}`;
}

/**
 * The first digits of a number, rounded by those that follow.
 *
 * @param {string} all digits
 * @param {number} count of those that are kept
 */
function roundHalfEven(all, count) {
  const kept = BigInt(all.slice(0, count) || "0");
  const rest = all.slice(count);
  const half = "5".padEnd(rest.length, "0");
  const up = rest > half || (rest === half && kept % 2n === 1n);
  return String(up ? kept + 1n : kept).padStart(count, "0");
}

/* eslint-disable-next-line no-control-regex */
const HIDDEN = /[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/gu;
/** @type {Record<string, string>} */
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/**
 * A name in which nothing is hidden: what steers a line is written as Python writes it. Names are others' texts.
 *
 * @param {string} text
 */
export function oneLine(text) {
  return text.replace(HIDDEN, (sign) => {
    const code = sign.charCodeAt(0).toString(16);
    return SHORT[sign] ?? (code.length > 2 ? `\\u${code}` : `\\x${code.padStart(2, "0")}`);
  });
}
