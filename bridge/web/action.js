/** What changes something: a button that says how it went, and a dialog before what cannot be undone. */
import { createContext, h, html, useContext, useEffect, useMemo, useRef, useState } from "./preact.js";
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

/** @typedef {{name: string, done?: string | ((answer: any) => string), confirm?: any, scope?: "register" | "admin", kind?: string, leave?: string}} Deed */

/** Do it, say how it went, and show what became of it. @param {Deed} deed @param {() => Promise<any>} run */
async function perform({ done = "Done", leave }, run) {
  const answer = await run();
  toast(typeof done === "function" ? done(answer) : done);
  if (leave) go(leave);
  else refetchAll();
}

/** Do it at a click; a click before that has ended does nothing. @param {Event} event @param {Deed} deed @param {() => Promise<any>} run */
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

/** @param {{deed: Deed, run: () => Promise<any>, close: () => void}} props */
function Ask({ deed, run, close }) {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const reason = useOfflineReason();
  const act = async () => {
    setBusy(true);
    setError(null);
    try {
      await perform(deed, run);
      close();
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${`${deed.name}?`} close=${close}><div>${deed.confirm ?? html`<p>This is done at once.</p>`}</div>
      ${error && html`<${ErrorBox} error=${error} />`}
      <p class="buttons"><button type="button" onClick=${close}>Back</button><button type="button" class="primary" disabled=${isBusy || Boolean(reason)} onClick=${act}>${deed.name}</button></p>
    </${Dialog}>`;
}

/**
 * A button that does `run`. With `confirm` it asks first, in a dialog whose button has the same name.
 * With `leave`, the page at that address follows.
 * @param {Deed & {run: () => Promise<any>, isOff?: string}} props
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
 * The same button in each row of a list, with one state for all of them: `button` makes that of an id, or null if the
 * session may not; `dialog` belongs beside the list.
 * @param {Deed} deed
 * @param {(id: string) => Promise<any>} run
 * @returns {{button: ((id: string) => any) | null, dialog: any}}
 */
export function useRowAction(deed, run) {
  const [asked, setAsked] = useState("");
  const reason = useOfflineReason();
  const may = useMay(deed.scope);
  const button = useMemo(() => {
    if (!may) return null;
    const idOf = (/** @type {Event} */ event) => /** @type {HTMLButtonElement} */ (event.currentTarget).value;
    const act = (/** @type {Event} */ event) => press(event, deed, () => run(idOf(event)));
    const ask = (/** @type {Event} */ event) => setAsked(idOf(event));
    return (/** @type {string} */ id) => h("button", { type: "button", class: "quiet", value: id, disabled: Boolean(reason), title: reason, onClick: act, [`on${ASK}`]: ask }, deed.name);
  }, [may, reason]);
  return { button, dialog: asked && html`<${Ask} deed=${deed} run=${() => run(asked)} close=${() => setAsked("")} />` };
}
