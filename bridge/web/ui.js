/** The small parts that every page is made of. */
import { h, html, useEffect, useRef, useState } from "./preact.js";
import { format, now } from "./api.js";
import { useLive } from "./live.js";
import { isUtc } from "./settings.js";

const FIELD_SHOWN_MAX = 8192;
const SKELETON_AFTER_MS = 150;
/** Shape and tone of each state; the word stands beside it. @type {Record<string, [string, string]>} */
const STATES = {
  queued: ["○", "idle"], running: ["●", "busy"], waiting: ["◆", "warn"], unknown: ["?", "warn"],
  succeeded: ["✓", "good"], partial: ["◐", "warn"], failed: ["✕", "bad"], cancelled: ["⊘", "idle"],
  expired: ["✕", "bad"], lost: ["✕", "bad"], pending: ["○", "busy"], delivered: ["✓", "good"],
  exhausted: ["✕", "bad"], discarded: ["⊘", "idle"], ok: ["✓", "good"], failing: ["✕", "bad"],
  enabled: ["✓", "good"], disabled: ["⊘", "idle"], attention: ["!", "warn"], error: ["✕", "bad"],
  warning: ["!", "warn"], alive: ["✓", "good"], dead: ["✕", "bad"], done: ["✓", "good"],
};

const WORST = ["exhausted", "discarded", "pending", "delivered"];

/** The worst state of some deliveries, as a link to them. @param {any} counts @param {string} address */
export function worstOf(counts, address) {
  const word = WORST.find((state) => counts?.[state]);
  return word ? stateOf(word, { href: address, title: Object.entries(counts).map(([state, count]) => `${count} ${state}`).join(", ") }) : "–";
}

const HIDDEN = { "aria-hidden": "true" };

// `stateOf`, `timeOf` and `idOf` are no components: a list has a thousand of them.

/** A state as word, shape and colour. @param {string} word @param {{href: string, title: string}} [link] */
export function stateOf(word, link) {
  const [shape, tone] = STATES[word] ?? ["·", "idle"];
  return h(link ? "a" : "span", { class: `state ${tone}`, ...link }, h("span", HIDDEN, shape), word);
}

/** @param {number} seconds */
export function durationText(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds)} s`;
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = parts.findIndex(([, size]) => seconds >= Number(size));
  const [unit, size] = parts[first];
  const whole = Math.floor(seconds / Number(size));
  const next = parts[first + 1];
  const rest = next ? Math.floor((seconds - whole * Number(size)) / Number(next[1])) : 0;
  return `${whole} ${unit}${rest ? ` ${rest} ${next[0]}` : ""}`;
}

/** @param {number} ms */
function relative(ms) {
  const text = durationText(Math.max(1, Math.round(Math.abs(ms) / 1000)));
  return Math.abs(ms) < 1500 ? "now" : ms < 0 ? `${text} ago` : `in ${text}`;
}

/** Formats of instants, made once: making one is a hundred times slower than using it. @type {Map<string, Intl.DateTimeFormat>} */
const formats = new Map();

/** An instant in full, in the zone that is chosen. @param {Date} date @param {"medium" | "short"} [style] */
export function clockText(date, style) {
  const zone = isUtc() ? "UTC" : undefined;
  const key = `${zone} ${style}`;
  const options = style ? { timeStyle: style, timeZone: zone } : { dateStyle: "medium", timeStyle: "medium", timeZone: zone };
  const format = formats.get(key) ?? new Intl.DateTimeFormat(undefined, /** @type {any} */ (options));
  formats.set(key, format);
  return Number.isNaN(date.getTime()) ? "no time" : `${format.format(date)}${zone && !style ? " UTC" : ""}`;
}

/** @param {any} at @param {string | boolean} [full] */
const timeText = (at, full) => `${full ? `${full} · ` : ""}${relative(Date.parse(at) - now())}`;

/** An instant, relative to the server's clock. @param {any} at @param {boolean} [exact] */
export function timeOf(at, exact) {
  if (!at) return "–";
  const full = exact && clockText(new Date(at));
  return h("time", { key: at, datetime: at, "data-full": full || undefined }, timeText(at, full));
}

/** Say the exact times of a row. @param {Event} event */
function sayExact({ target }) {
  for (const one of /** @type {Element} */ (target).closest("tr")?.querySelectorAll("time:not([data-full], [data-exact])") ?? []) {
    /** @type {HTMLElement} */ (one).dataset.exact = clockText(new Date(/** @type {HTMLTimeElement} */ (one).dateTime));
  }
}
addEventListener("focusin", sayExact);
addEventListener("mouseover", sayExact);

// A list has hundreds of times, so their texts are changed in place: no component is drawn again for them. Preact does
// not know of that, so another instant is another element.
setInterval(() => {
  for (const one of /** @type {NodeListOf<HTMLTimeElement>} */ (document.querySelectorAll("time:not([data-fixed])"))) {
    if (one.firstChild) one.firstChild.nodeValue = timeText(one.dateTime, one.dataset.full);
  }
}, 10000);

/** Put text on the clipboard; false where the browser does not allow it. @param {string} text */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // over plain HTTP from another machine there is no clipboard
    const field = Object.assign(document.createElement("textarea"), { value: text });
    const holder = document.querySelector("dialog[open]") ?? document.body;
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    holder.append(field);
    field.select();
    const isDone = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return isDone;
  }
}

/** Copy the value of the button, which shows for a moment how that went. @param {MouseEvent} event */
async function copyValue(event) {
  const button = /** @type {HTMLButtonElement} */ (event.currentTarget);
  button.dataset.said = (await copyText(button.value)) ? "✓" : "✕";
  setTimeout(() => delete button.dataset.said, 1500);
}

/** @param {{value: string, label?: string}} props */
export function Copy({ value, label = "Copy" }) {
  const [said, setSaid] = useState("");
  const copy = async () => {
    setSaid((await copyText(value)) ? "Copied" : "Not allowed");
    setTimeout(() => setSaid(""), 1500);
  };
  return html`<button type="button" class="quiet" onClick=${copy}>${said || label}</button>`;
}

/** An id with its copy button. @param {string} value @param {string} [href] */
export function idOf(value, href) {
  return [h(href ? "a" : "bdi", { class: "id", href }, visible(value)),
    h("button", { type: "button", class: "quiet icon", "aria-label": `Copy ${value}`, value, onClick: copyValue })];
}

/** Foreign text: as it is, control characters made visible, long ones cut with the rest to download. @param {string} text @param {string} name */
export function foreignOf(text, name) {
  const isHuge = text.length > FIELD_SHOWN_MAX;
  const shown = visible(isHuge ? text.slice(0, FIELD_SHOWN_MAX) : text);
  const save = () => {
    const address = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
    Object.assign(document.createElement("a"), { href: address, download: `${name}.txt` }).click();
    URL.revokeObjectURL(address);
  };
  return html`<pre tabindex="0" role="group" aria-label=${name}><bdi>${shown}</bdi></pre>
    <p class="tools"><${Copy} value=${text} label=${`Copy ${name}`} />${isHuge && html`<span>The first 8 KiB of ${Math.ceil(text.length / 1024)} KiB.</span>
      <button type="button" class="quiet" onClick=${save}>Download all</button>`}</p>`;
}

/** Control and direction characters as their code, so that they cannot disguise what stands there. @param {string} text */
export function visible(text) {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (character) =>
    `\u27e8${character.charCodeAt(0).toString(16).padStart(4, "0")}\u27e9`);
}

/** A value of JSON. @param {any} value @param {string} name */
export const jsonOf = (value, name) => foreignOf(typeof value === "string" ? value : format(value), name);

/** An error in the API's own words. @param {{error: any, again?: () => void}} props */
export function ErrorBox({ error, again }) {
  return html`<div class="error" role="alert">
    <p><strong>${error.title || "Error"}</strong>${error.status > 0 && html` <span class="code">${error.status}</span>`}</p>
    <p>${visible(String(error.message))}</p>
    ${error.errors?.length > 0 && html`<ul>${error.errors.map((/** @type {any} */ one) => html`<li><code>${one.field}</code> ${visible(one.message)}</li>`)}</ul>`}
    ${error.requestId && html`<p class="code">request ${error.requestId}</p>`}
    ${again && html`<button type="button" onClick=${again}>Try again</button>`}
  </div>`;
}

/** What stands there until the first answer; nothing for a moment, so that a quick answer does not flicker. */
export function Loading() {
  const [isLate, setLate] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLate(true), SKELETON_AFTER_MS);
    return () => clearTimeout(timer);
  }, []);
  return html`<div class="loading" aria-busy="true">${isLate && html`<p>Loading …</p>${[1, 2, 3, 4].map((n) => html`<div class="skeleton" key=${n}></div>`)}`}</div>`;
}

/** The page's heading, which gets the focus and names the window when the page changes; the actions, and why they are off. @param {{title: string, isId?: boolean, children?: any}} props */
export function Heading({ title, isId = false, children }) {
  const heading = useRef(null);
  const reason = useOfflineReason();
  useEffect(() => {
    document.title = `${title} · runbridge`;
    if (document.activeElement === document.body || !document.activeElement) heading.current?.focus({ preventScroll: true });
  }, [title]);
  return html`<header class="head"><h1 tabindex="-1" ref=${heading}><bdi>${visible(title)}</bdi></h1><div class="actions">${isId && html`<${Copy} value=${title} label="Copy id" />`}${children}</div>
    ${reason && html`<p class="hint why">${reason}</p>`}</header>`;
}

export const focusHeading = () => document.querySelector("h1")?.focus({ preventScroll: true });

/** Names and values; those without a value are left out. @param {[string, any][]} rows */
export function factsOf(rows) {
  const there = rows.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return html`<dl class="facts">${there.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A labelled field of a form. @param {string} label @param {string} name @param {Record<string, any>} [more] */
export const field = (label, name, more) => html`<label key=${name}><span>${label}</span><input name=${name} autocomplete="off" ...${more} /></label>`;

/** A labelled choice. An option may have another text than its value; a chosen one that is missing is added. @param {string} label @param {string} name @param {(string | [string, string])[]} options @param {string} [chosen] @param {Record<string, any>} [more] */
export function choice(label, name, options, chosen, more) {
  const shown = options.map((one) => (typeof one === "string" ? [one, one] : one));
  if (chosen && !shown.some(([value]) => value === chosen)) shown.push([chosen, chosen]);
  return html`<label key=${name}><span>${label}</span><select name=${name} aria-label=${label} ...${more}>${shown.map(([value, text]) =>
    h("option", { key: value, value, selected: value === chosen }, text))}</select></label>`;
}

/** The values of a form that is submitted. @param {Event} event @returns {Record<string, string>} */
export const valuesOf = ({ currentTarget }) => Object.fromEntries([...new FormData(/** @type {HTMLFormElement} */ (currentTarget))].map(([name, value]) => [name, String(value).trim()]));

/** Whether an error needs no box of its own: signed out, or not reachable while what was fetched before is still shown. @param {any} error @param {any} data */
export const isSaidElsewhere = (error, data) => error.status === 401 || (error.status === 0 && Boolean(data));

/** What `draw` makes of fetched data: waits for it and shows its error. @param {import("./data.js").Fetched} fetched @param {(data: any) => any} draw */
export function loaded({ data, error, reload, isBusy }, draw) {
  return html`${error && !isSaidElsewhere(error, data) && html`<${ErrorBox} error=${error} again=${reload} />`}${data ? html`<div class="whole" aria-busy=${isBusy}>${draw(data)}</div>` : (!error || isSaidElsewhere(error, data)) && html`<${Loading} />`}`;
}

/** Why actions are off; empty while they are not. */
export function useOfflineReason() {
  const live = useLive();
  return live.status === "Disconnected" ? "The daemon does not answer, so nothing can be changed; this works again when it does." : "";
}
