/** Calls of the HTTP API under the rights of the session's cookie; in its JSON every number is kept digit by digit. */
import { recall, remember } from "./settings.js";

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

/** The answers of the API, as /openapi.json describes them; the tests generate this file. @typedef {import("./openapi.js").components["schemas"]} Schemas */

/** An error as the API describes it (RFC 9457). */
export class Problem extends Error {
  /** @param {number} status @param {any} body */
  constructor(status, body) {
    super(body?.detail || body?.title || `the daemon answered ${status}`);
    this.status = status;
    this.title = body?.title || "Error";
    /** @type {{field: string, message: string}[]} */
    this.errors = body?.errors || [];
    this.requestId = body?.request_id || null;
  }
}

/** The daemon could not be reached. */
export class Unreachable extends Error {
  constructor() {
    super("The daemon does not answer. Is it running, and does this machine reach it?");
    this.title = "Not reachable";
    this.errors = [];
    this.status = 0;
    this.requestId = null;
  }
}

/** @type {{onSignedOut: () => void, onUnreachable: () => void, onSkew: () => void, skewMs: number}} */
export const link = { onSignedOut() {}, onUnreachable() {}, onSkew() {}, skewMs: 0 };

/** The present instant by the server's clock, in milliseconds. */
export const now = () => Date.now() + link.skewMs;

/**
 * @param {string} method
 * @param {string} path
 * @param {any} [body]
 * @param {(text: string) => any} [read]
 * @returns {Promise<any>} the parsed answer, null where there is none
 */
export async function call(method, path, body, read = parse) {
  /** @type {RequestInit} */
  const init = { method, headers: { Accept: "application/json" }, cache: "no-store" };
  if (method === "POST" || method === "PATCH") {
    init.body = JSON.stringify(body ?? {});
    init.headers = { ...init.headers, "Content-Type": "application/json" };
  }
  let response, text;
  try {
    response = await fetch(path, init);
    text = await response.text();
  } catch {
    link.onUnreachable();
    throw new Unreachable();
  }
  const date = Date.parse(response.headers.get("Date") || "");
  if (date) {
    const before = link.skewMs;
    link.skewMs = Math.abs(date + 500 - Date.now()) > 2000 ? date + 500 - Date.now() : 0;
    if (Math.abs(link.skewMs - before) > 2000) link.onSkew();
  }
  let answer = null;
  try {
    answer = text ? (response.ok ? read : parse)(text) : null;
  } catch {
    throw new Problem(response.status, { detail: "The answer is not JSON. Is a proxy in between?" });
  }
  if (response.ok) return answer;
  if (response.status === 401 && path !== "/v1/session") link.onSignedOut();
  throw new Problem(response.status, answer);
}

/** The path of one thing. @param {string} kind @param {string} id */
export const pathOf = (kind, id) => `/v1/${kind}/${encodeURIComponent(id)}`;

/** @param {string} path @param {any} [body] */
export const post = (path, body) => call("POST", path, body);

/** The session, or null when signed out. */
export async function findSession() {
  if (!recall("signed-in")) return null; // spares the console a 401; the cookie itself is out of reach
  try {
    return await call("GET", "/v1/session");
  } catch (error) {
    if (error instanceof Problem && error.status === 401) {
      remember("signed-in", null);
      return null;
    }
    throw error;
  }
}

/** @param {{token?: string, link?: string}} secret */
export async function signIn(secret) {
  const session = await post("/v1/session", secret);
  remember("signed-in", "1");
  return session;
}

export async function signOut() {
  await call("DELETE", "/v1/session");
  remember("signed-in", null);
}

/**
 * A path with those parameters that have a value.
 * @param {string} path
 * @param {Record<string, any>} parameters
 */
export function withQuery(path, parameters) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.append(key, String(value));
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}
