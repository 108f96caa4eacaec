/** What changes something: a button that says how it went, and a dialog before what cannot be undone. */
import { createContext, html, useContext, useEffect, useRef, useState } from "./preact.js";
import { refetchAll } from "./live.js";
import { go } from "./route.js";
import { ErrorBox, useOfflineReason } from "./ui.js";

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
  const [shown, setShown] = useState(/** @type {any} */ (null));
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

/**
 * A modal dialog; the focus goes back to its opener when it closes.
 * @param {{title: string, close: () => void, children: any}} props
 */
export function Dialog({ title, close, children }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const opener = /** @type {HTMLElement | null} */ (document.activeElement);
    dialog.current?.showModal();
    return () => /** @type {HTMLElement | null} */ (opener?.isConnected ? opener : document.querySelector("h1"))?.focus();
  }, []);
  return html`<dialog ref=${dialog} aria-label=${title} onClose=${close}><h2>${title}</h2>${children}</dialog>`;
}

/** How the key `R` presses a button: it asks first, whatever the button does at a click. */
export const ASK = "ask";

/**
 * A button that does `run`. With `confirm` it asks first, in a dialog whose button has the same name.
 * With `leave`, the page at that address follows.
 * @param {{name: string, run: () => Promise<any>, done?: string | ((answer: any) => string), confirm?: any, scope?: "register" | "admin", kind?: string, isOff?: string, leave?: string}} props
 */
export function Action({ name, run, done = "Done", confirm, scope = "admin", kind = "", isOff = "", leave = "" }) {
  const [isOpen, setOpen] = useState(false);
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const offline = useOfflineReason();
  const reason = offline || isOff;
  if (!useMay(scope)) return null;
  const act = async () => {
    setBusy(true);
    setError(null);
    try {
      const answer = await run();
      setOpen(false);
      toast(typeof done === "function" ? done(answer) : done);
      if (leave) go(leave);
      else refetchAll();
    } catch (problem) {
      if (isOpen) setError(problem);
      else toast("", problem);
    } finally {
      setBusy(false);
    }
  };
  const close = () => {
    setOpen(false);
    setError(null);
  };
  const ask = () => setOpen(true);
  return html`<button type="button" class=${kind} disabled=${isBusy || Boolean(reason)} title=${reason} onClick=${confirm ? ask : act} ...${{ [`on${ASK}`]: ask }}>${name}</button>
    ${isOpen && html`<${Dialog} title=${`${name}?`} close=${close}><div>${confirm ?? html`<p>This is done at once.</p>`}</div>
      ${error && html`<${ErrorBox} error=${error} />`}
      <p class="buttons"><button type="button" onClick=${close}>Back</button><button type="button" class="primary" disabled=${isBusy || Boolean(reason)} onClick=${act}>${name}</button></p>
    </${Dialog}>`}`;
}
