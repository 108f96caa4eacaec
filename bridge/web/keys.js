/** Keys: only where no field has the focus, no modifier is held and no dialog is open; they can be switched off. */
import { html, useEffect, useRef, useState } from "./preact.js";
import { ASK, Dialog, toast } from "./action.js";
import { refetchAll, togglePause } from "./live.js";
import { go, to } from "./route.js";
import { recall, remember, toggleTheme } from "./settings.js";
import { copyText } from "./ui.js";

/** @type {Record<string, string>} */
const PAGES = { o: "overview", r: "runs", d: "deliveries", e: "endpoints", p: "replays", c: "connections", v: "events", n: "nodes", y: "replays" };
const HELP = [["g then o r d e p c v n", "go to a page, by its letter"], ["/", "filter; Esc leaves it"], ["j k", "next, previous row"], ["Enter", "open the row"], ["u", "up to the list"],
  ["[ ]", "newer, older page"], ["r", "fetch again now"], ["p", "pause, go on"], ["x", "select the row; shift-click selects up to a row"], ["c", "copy the id"], ["t", "light, dark"], ["R", "retry or replay, after a question"], ["?", "this list"]];

const areOff = () => recall("keys-off") !== null;

/** @param {number} by */
function moveRow(by) {
  const rows = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("main tbody tr td:first-child a")]);
  const at = rows.indexOf(/** @type {any} */ (document.activeElement));
  rows[Math.min(rows.length - 1, Math.max(0, at + by))]?.focus();
}

/** Copy the id of the row that has the focus, or that of the page. @param {HTMLElement} target @param {string | null} id */
async function copyId(target, id) {
  const text = target.matches("td a") ? target.textContent : id;
  if (text) toast((await copyText(text)) ? `Copied ${text}` : "The browser does not allow copying");
}

/** Have the first button of this name ask. Whether there is one. @param {string} name */
function ask(name) {
  const button = /** @type {HTMLElement | undefined} */ ([...document.querySelectorAll("main button:enabled")].find((one) => one.textContent === name));
  button?.focus();
  button?.dispatchEvent(new Event(ASK));
  return Boolean(button);
}

/** @param {string} selector */
const press = (selector) => /** @type {HTMLElement | null} */ (document.querySelector(selector))?.click();

/** Heed keys. The listener lives as long as the shell, so that a redraw between "g" and its letter loses nothing. @param {import("./route.js").Route} route @param {() => void} help */
export function useKeys(route, help) {
  const current = useRef({ route, help });
  current.current = { route, help };
  useEffect(() => {
    let isGoing = false;
    const act = (/** @type {KeyboardEvent} */ event) => {
      const { route, help } = current.current;
      const target = /** @type {HTMLElement} */ (event.target);
      const isField = target.matches("input:not([type=checkbox]), select, textarea");
      if (event.key === "Escape" && isField) return target.blur();
      if (isField || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || areOff()) return;
      if (isGoing) {
        isGoing = false;
        if (PAGES[event.key]) go(to(PAGES[event.key]));
        return;
      }
      /** @type {Record<string, () => any>} */
      const does = {
        g: () => (isGoing = true), "/": () => /** @type {HTMLElement | null} */ (document.querySelector("main .filters input") ?? document.querySelector(".bar input"))?.focus(),
        j: () => moveRow(1), k: () => moveRow(-1), ArrowDown: () => moveRow(1), ArrowUp: () => moveRow(-1),
        o: () => target.matches("td a") && target.click(), u: () => route.id !== null && go(to(route.page)),
        "[": () => press("[data-page=newer]"), "]": () => press("[data-page=older]"), x: () => press("tr:focus-within input[type=checkbox]"),
        r: refetchAll, p: togglePause, t: toggleTheme, "?": help,
        c: () => copyId(target, route.id), R: () => ask("Retry") || ask("Replay"),
      };
      if (event.key.startsWith("Arrow") && !target.matches("td a")) return; // else the page scrolls
      if (!does[event.key]) return;
      event.preventDefault();
      does[event.key]();
    };
    addEventListener("keydown", act);
    return () => removeEventListener("keydown", act);
  }, []);
}

/** @param {{close: () => void}} props */
export function Keys({ close }) {
  const [off, setOff] = useState(areOff());
  const toggle = () => {
    remember("keys-off", off ? null : "1");
    setOff(!off);
  };
  return html`<${Dialog} title="Keys" close=${close}><dl class="facts">${HELP.map(([keys, what]) => html`<div key=${keys}><dt><kbd>${keys}</kbd></dt><dd>${what}</dd></div>`)}</dl>
    <label class="check"><input type="checkbox" checked=${!off} onChange=${toggle} /><span>Single keys are on</span></label>
    <p class="buttons"><button type="button" class="primary" onClick=${close}>Close</button></p></${Dialog}>`;
}
