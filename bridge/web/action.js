/** What changes something: a button that says how it went, and a dialog before what cannot be undone. */
import { createContext, html, useContext, useEffect, useRef, useState } from "./preact.js";
import { refetchAll } from "./live.js";
import { ErrorBox, useOfflineReason } from "./ui.js";

/** The signed-in session. */
export const Session = createContext(/** @type {any} */ (null));

/** Whether this session may do what needs `scope`. @param {"register" | "admin"} [scope] */
export function useMay(scope = "admin") {
  const session = useContext(Session);
  const ranks = ["read", "register", "admin"];
  return Boolean(session) && !session.read_only && ranks.indexOf(session.scope) >= ranks.indexOf(scope);
}

/** @type {Set<(toast: any) => void>} */
const toasters = new Set();

/** Say something for some seconds, to everybody. @param {string} text @param {any} [error] */
export function toast(text, error) {
  for (const show of toasters) show({ text, error, at: Date.now() });
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
  return html`<div class="toasts"><div role="status" aria-live="polite">${shown && !shown.error ? html`<p class="toast">${shown.text}</p>` : ""}</div>
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
    return () => opener?.isConnected && opener.focus();
  }, []);
  return html`<dialog ref=${dialog} aria-label=${title} onClose=${close}><h2>${title}</h2>${children}</dialog>`;
}

/**
 * A button that does `run`. With `confirm` it asks first, in a dialog whose button has the same name.
 * @param {{name: string, run: () => Promise<any>, done?: string | ((answer: any) => string), confirm?: any, scope?: "register" | "admin", kind?: string, isOff?: string}} props
 */
export function Action({ name, run, done = "Done", confirm, scope = "admin", kind = "", isOff = "" }) {
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
      refetchAll();
    } catch (problem) {
      if (confirm) setError(problem);
      else toast("", problem);
    } finally {
      setBusy(false);
    }
  };
  const close = () => {
    setOpen(false);
    setError(null);
  };
  return html`<button type="button" class=${kind} disabled=${isBusy || Boolean(reason)} title=${reason} onClick=${confirm ? () => setOpen(true) : act}>${name}</button>
    ${isOpen && html`<${Dialog} title=${`${name}?`} close=${close}><div>${confirm}</div>
      ${error && html`<${ErrorBox} error=${error} />`}
      <p class="buttons"><button type="button" onClick=${close}>Back</button><button type="button" class="primary" disabled=${isBusy || Boolean(reason)} onClick=${act}>${name}</button></p>
    </${Dialog}>`}`;
}
