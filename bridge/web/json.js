/** JSON in both directions with every number kept digit by digit. */

/** A number whose text says more than a double can hold. Arithmetic works on it, its text is the sender's. */
export class ExactNumber extends Number {
  /** @param {string} text */
  constructor(text) {
    super(text);
    this.text = text;
  }

  toString() {
    return this.text;
  }

  toJSON() {
    return this.text;
  }
}

/** A number that may not be spelled as JavaScript would: with an exponent, a zero at its end, or many digits. */
const UNUSUAL = /(?:^|[:[,])\s*-?(?:\d+\.\d*0(?=\s*(?:[,\]}]|$))|[\d.]+[eE]|[\d.]{16})/;

/**
 * Parse JSON; a number that a double would alter becomes an ExactNumber.
 * @param {string} text
 * @returns {any}
 */
export function parse(text) {
  if (!UNUSUAL.test(text)) return JSON.parse(text);
  const reviver = (/** @type {string} */ _key, /** @type {any} */ value, /** @type {{source?: string}} */ context) =>
    typeof value === "number" && context?.source !== undefined && context.source !== String(value)
      ? new ExactNumber(context.source)
      : value;
  return JSON.parse(text, /** @type {any} */ (reviver));
}

/**
 * Indented JSON, numbers as they came.
 * @param {any} value
 * @param {string} [indent]
 * @returns {string}
 */
export function format(value, indent = "") {
  if (value instanceof ExactNumber) return value.text;
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  const inner = `${indent}  `;
  const isList = Array.isArray(value);
  const parts = isList
    ? value.map((item) => format(item, inner))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${format(item, inner)}`);
  const [open, close] = isList ? "[]" : "{}";
  return parts.length ? `${open}\n${inner}${parts.join(`,\n${inner}`)}\n${indent}${close}` : open + close;
}
