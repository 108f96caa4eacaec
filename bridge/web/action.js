/** What changes something: a button that says how it went, a dialog before what cannot be undone, and bulk operations. */
import { createContext, h, html, useContext, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./preact.js";
import { post } from "./api.js";
import { refetchAll } from "./live.js";
import { filtersOf, go } from "./route.js";
import { ErrorBox, useOfflineReason, valuesOf } from "./ui.js";

/** The signed-in session. */
export const Session = createContext(/** @type {any} */ (null));

/** Whether this session may do what needs `scope`. @param {"register" | "admin"} [scope] */
export function useMay(scope = "admin") {
  const session = useContext(Session);
  const ranks = ["read", "register", "admin"];
  return Boolean(session) && !session.read_only && ranks.indexOf(session.scope) >= ranks.indexOf(scope);
}

const ANNOUNCE_EVERY_MS = 5000;

/** @type {Set<(toast: any) => void>} */
const toasters = new Set();

/** Show a sentence for some seconds, or an error until it is closed. @param {string} text @param {any} [error] */
export function toast(text, error) {
  for (const show of toasters) show({ text, error, at: Date.now() });
  if (!error) announce(text);
}

let announcedAt = 0;
let announceTimer = 0;

/** Have a screen reader say something; the newest sentence, at most once in five seconds. @param {string} text */
export function announce(text) {
  clearTimeout(announceTimer);
  announceTimer = setTimeout(() => {
    announcedAt = Date.now();
    const region = document.getElementById("announcer");
    if (region) region.textContent = text;
  }, Math.max(100, announcedAt + ANNOUNCE_EVERY_MS - Date.now()));
}

export function Toasts() {
  const [shown, setShown] = useState(null);
  useEffect(() => {
    toasters.add(setShown);
    return () => {
      toasters.delete(setShown);
    };
  }, []);
  useEffect(() => {
    if (!shown || shown.error) return undefined;
    const timer = setTimeout(() => setShown(null), 6000);
    return () => clearTimeout(timer);
  }, [shown]);
  return html`<div id="announcer" class="hidden" aria-live="polite"></div>
    <div class="toasts">${shown && !shown.error && html`<p class="toast">${shown.text}</p>`}
    ${shown?.error && html`<div class="toast"><${ErrorBox} error=${shown.error} /><button type="button" onClick=${() => setShown(null)}>Close</button></div>`}</div>`;
}

/** What had the focus before a dialog took it; a dialog may open another one. @type {HTMLElement | null} */
let opener = null;

/**
 * A modal dialog; the focus goes back to its opener when it closes. Without `close` it stays until it is removed.
 * @param {{title: string, close?: () => void, kind?: string, children?: any}} props
 */
export function Dialog({ title, close, kind, children }) {
  const dialog = useRef(null);
  useLayoutEffect(() => { // an effect would end only after the next frame, behind which the next key may come
    const shown = dialog.current;
    const active = /** @type {HTMLElement | null} */ (document.activeElement);
    if (!active?.closest("dialog")) opener = active;
    shown.showModal();
    return () => {
      shown.close();
      const isLost = document.activeElement === document.body || shown.contains(document.activeElement);
      if (isLost && !document.querySelector("dialog[open]")) (opener?.isConnected && opener !== document.body ? opener : document.querySelector("h1"))?.focus();
    };
  }, []);
  // The event `close` comes so late that the opener may have been pressed again before it.
  const leave = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    close?.();
  };
  const closed = (/** @type {Event} */ event) => {
    const shown = /** @type {HTMLDialogElement} */ (event.currentTarget);
    if (shown.isConnected) close ? close() : shown.showModal();
  };
  return html`<dialog ref=${dialog} class=${kind} aria-label=${title} onKeyDown=${leave} onClose=${closed}><h2>${title}</h2>${children}</dialog>`;
}

/** How the key `R` presses a button: it asks first, whatever the button does at a click. */
export const ASK = "ask";

/** @typedef {{name: string, done?: string | ((answer: any) => string), confirm?: any, scope?: "register" | "admin", kind?: string, leave?: string}} Deed */
/** What a deed does; `given` are the values of the form that asked. @typedef {(given: Record<string, string>) => Promise<any>} Run */

/** Do it, say how it went, and show what became of it. @param {Deed} deed @param {Run} run @param {Record<string, string>} [given] */
async function perform({ done = "Done", leave }, run, given = {}) {
  const answer = await run(given);
  toast(typeof done === "function" ? done(answer) : done);
  if (leave) go(leave);
  else refetchAll();
}

/** Do it at a click; a click before that has ended does nothing. @param {Event} event @param {Deed} deed @param {Run} run */
async function press({ currentTarget }, deed, run) {
  const button = /** @type {HTMLElement} */ (currentTarget);
  if (button.ariaBusy) return;
  button.ariaBusy = "true";
  try {
    await perform(deed, run);
  } catch (problem) {
    toast("", problem);
  }
  button.ariaBusy = null;
}

/** Trying something: what went wrong last, whether one is under way, and `attempt`, which gives undefined after an error. */
export function useAttempt() {
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const attempt = async (/** @type {() => Promise<any>} */ act) => {
    setBusy(true);
    setError(null);
    try {
      return await act();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return { error, isBusy, attempt };
}

/**
 * A dialog with a form, whose values go to `send`. With `counts` it has a second button, which passes true for `isCount`.
 * @param {{title: string, does: string, send: (given: Record<string, string>, isCount: boolean) => Promise<any>, close: () => void,
 *   counts?: boolean, isOff?: boolean, onChange?: () => void, children?: any}} props
 */
export function FormDialog({ title, does, send, close, counts, isOff = false, onChange, children }) {
  const { error, isBusy, attempt } = useAttempt();
  const reason = useOfflineReason();
  const submit = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const given = valuesOf(event);
    const isCount = /** @type {HTMLButtonElement | null} */ (event.submitter)?.name === "count";
    if (!isBusy) attempt(() => send(given, isCount));
  };
  const button = (/** @type {string} */ text, /** @type {boolean} */ isDisabled, /** @type {Record<string, string>} */ more) =>
    h("button", { type: "submit", title: reason, disabled: isDisabled || Boolean(reason), "aria-busy": isBusy, ...more }, text);
  return html`<${Dialog} title=${title} close=${close}><form class="stack" onSubmit=${submit} onChange=${onChange}>${children}
    ${error && html`<${ErrorBox} error=${error} />`}
    <p class="buttons"><button type="button" onClick=${close}>Back</button>${counts && button("Count", false, { name: "count" })}${button(does, isOff, { class: "primary" })}</p></form></${Dialog}>`;
}

/** The question before a deed; `about` is the id in a table. @param {{deed: Deed, run: Run, close: () => void, about?: string}} props */
function Ask({ deed, run, close, about }) {
  const act = async (/** @type {Record<string, string>} */ given) => {
    await perform(deed, run, given);
    close();
  };
  return html`<${FormDialog} title=${`${deed.name}?`} does=${deed.name} send=${act} close=${close}>${about && html`<p class="id">${about}</p>`}<div>${deed.confirm ?? html`<p>This is done at once.</p>`}</div></${FormDialog}>`;
}

/** A button that opens the dialog that `draw` makes, if the session may. @param {{name: string, draw: (close: () => void) => any, scope?: "register" | "admin", kind?: string, isOff?: string}} props */
export function Opener({ name, draw, scope, kind = "", isOff = "" }) {
  const [isOpen, setOpen] = useState(false);
  const reason = useOfflineReason() || isOff;
  if (!useMay(scope)) return null;
  return html`<button type="button" class=${kind} disabled=${Boolean(reason)} title=${reason} onClick=${() => setOpen(true)}>${name}</button>${isOpen && draw(() => setOpen(false))}`;
}

/**
 * A button that does `run`. With `confirm` it asks first, in a dialog whose button has the same name.
 * With `leave`, the page at that address follows.
 * @param {Deed & {run: Run, isOff?: string}} props
 */
export function Action({ run, isOff = "", ...deed }) {
  const [isOpen, setOpen] = useState(false);
  const reason = useOfflineReason() || isOff;
  if (!useMay(deed.scope)) return null;
  const ask = () => setOpen(true);
  return html`<button type="button" class=${deed.kind} disabled=${Boolean(reason)} title=${reason} onClick=${deed.confirm ? ask : (/** @type {Event} */ event) => press(event, deed, run)} ...${{ [`on${ASK}`]: ask }}>${deed.name}</button>
    ${isOpen && html`<${Ask} deed=${deed} run=${run} close=${() => setOpen(false)} />`}`;
}

/**
 * The same button in rows of a table, with one state for all of them: `button` makes that of an id, with the reason if it
 * is off; it is null if the session may not. `dialog` belongs beside the table.
 * @param {Deed} deed
 * @param {(id: string, given: Record<string, string>) => Promise<any>} run
 * @returns {{button: ((id: string, isOff?: string) => any) | null, dialog: any}}
 */
export function useRowAction(deed, run) {
  const [asked, setAsked] = useState("");
  const offline = useOfflineReason();
  const may = useMay(deed.scope);
  const button = useMemo(() => {
    if (!may) return null;
    const idOf = (/** @type {Event} */ event) => /** @type {HTMLButtonElement} */ (event.currentTarget).value;
    const act = (/** @type {Event} */ event) => press(event, deed, (given) => run(idOf(event), given));
    const ask = (/** @type {Event} */ event) => setAsked(idOf(event));
    return (/** @type {string} */ id, isOff = "") => {
      const title = offline || isOff;
      return h("button", { type: "button", class: "quiet", value: id, disabled: Boolean(title), title, onClick: deed.confirm ? ask : act, [`on${ASK}`]: ask }, deed.name);
    };
  }, [may, offline]);
  return { button, dialog: asked && html`<${Ask} deed=${deed} about=${asked} run=${(/** @type {Record<string, string>} */ given) => run(asked, given)} close=${() => setAsked("")} />` };
}

/** @typedef {{name: string, path: string, what: string, warning: string, kind?: string}} Operation */

/** What a bulk operation selects, as the API takes it. @param {import("./route.js").Route} route @param {string[]} ids */
function selected(route, ids) {
  /** @type {Record<string, any>} */
  const wanted = ids.length ? { ids } : {};
  for (const [name, value] of ids.length ? [] : filtersOf(route)) {
    const key = name.startsWith("metadata.") ? name.slice(9) : "";
    if (key) wanted.metadata = { ...wanted.metadata, [key]: value };
    else wanted[name] = name === "status" ? value.split(",") : value;
  }
  return wanted;
}

/** `given` is what was chosen when it opened. @param {{operation: Operation, given: {does: string, wanted: any}, close: () => void, done: () => void}} props */
function BulkDialog({ operation, given, close, done }) {
  const { does, wanted } = useRef(given).current;
  const [count, setCount] = useState(null);
  const [progress, setProgress] = useState(null);
  const isStopped = useRef(false);
  const said = useRef(null);
  const ask = async () => {
    setCount(await post(operation.path, { ...wanted, dry_run: true }));
    said.current?.focus();
  };
  const act = async () => {
    const sum = { count: 0, skipped: 0, errors: /** @type {any[]} */ ([]) };
    let cursor = "";
    try {
      do {
        const part = await post(operation.path, { ...wanted, cursor });
        sum.count += Number(part.count);
        sum.skipped += Number(part.skipped);
        sum.errors.push(...part.errors);
        cursor = part.next_cursor ?? "";
        setProgress({ ...sum });
      } while (cursor && !isStopped.current);
    } finally {
      setProgress(null);
      refetchAll();
    }
    const more = [sum.skipped && `${sum.skipped} left alone`, cursor && "stopped before the rest"].filter(Boolean).join(", ");
    toast(`${operation.name}: ${sum.count} done${more ? `, ${more}` : ""}`);
    done();
    if (sum.errors.length) throw { title: `${sum.errors.length} failed`, message: "The others were done.", errors: sum.errors.slice(0, 20).map((one) => ({ field: one.id, message: one.message })) };
    close();
  };
  const leave = () => {
    isStopped.current = true;
    close();
  };
  const total = count && `${count.is_exact ? "" : "More than "}${count.count}`;
  return html`<${FormDialog} title=${`${operation.name}?`} does=${does} counts isOff=${!Number(count?.count)} close=${leave} send=${(/** @type {any} */ _, /** @type {boolean} */ isCount) => (isCount ? ask() : act())}><p>${operation.warning}</p>
    <p tabindex="-1" ref=${said}>${count ? `${total} ${operation.what} selected.` : "Count first: nothing is done by that."}</p>
    ${progress && html`<p><progress max=${Number(count.count) || 1} value=${progress.count} aria-label="Progress"></progress> ${progress.count} of ${total}. Going back stops before the next part.</p>`}</${FormDialog}>`;
}

/**
 * The buttons of bulk operations, on everything that the filter selects or on the chosen rows: on the server, counted
 * first, part by part. They are off until there is a filter or a chosen row.
 * @param {{operations: Operation[], route: import("./route.js").Route, selection: import("./table.js").Selection}} props
 */
export function Bulk({ operations, route, selection }) {
  if (!useMay()) return null;
  const ids = [...selection.ids];
  const wanted = selected(route, ids);
  const isNothing = Object.keys(wanted).length === 0;
  return html`<p class="tools bulk">${operations.map((operation) => {
      const does = `${operation.name} ${ids.length ? `${ids.length} selected` : "all that match"}`;
      return html`<${Opener} key=${operation.name} name=${does} kind=${operation.kind} isOff=${isNothing ? "Set a filter or select rows first" : ""}
        draw=${(/** @type {() => void} */ close) => html`<${BulkDialog} ...${{ operation, given: { does, wanted }, close }} done=${() => selection.choose(ids, false)} />`} />`;
    })}
    ${isNothing && html`<span class="hint">Set a filter or select rows to act on many.</span>`}</p>`;
}
