/** Keys: only where no field has the focus, no modifier is held and no dialog is open; they can be switched off. */
import { html, useEffect, useState } from "./preact.js";
import { Dialog } from "./action.js";
import { refetchAll, togglePause } from "./live.js";
import { go, to } from "./route.js";

const OFF = "runbridge.keys-off";
const THEME = "runbridge.theme";
/** @type {Record<string, string>} */
const PAGES = { o: "overview", r: "runs", d: "deliveries", e: "endpoints", p: "replays", c: "connections", v: "events", n: "nodes", y: "replays" };
const HELP = [["g then o r d e p c v n", "go to a page, by its letter"], ["/", "filter; Esc leaves it"], ["j k", "next, previous row"], ["Enter", "open the row"], ["u", "up to the list"],
  ["[ ]", "newer, older page"], ["r", "fetch again now"], ["p", "pause, go on"], ["c", "copy the id"], ["t", "light, dark"], ["R", "retry or replay"], ["?", "this list"]];

const areOff = () => localStorage.getItem(OFF) !== null;

/** @param {string | null} theme */
function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}
try {
  setTheme(localStorage.getItem(THEME));
} catch {
  // storage is switched off
}

function toggleTheme() {
  const isDark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(isDark ? "light" : "dark");
  localStorage.setItem(THEME, isDark ? "light" : "dark");
}

/** @param {number} by */
function moveRow(by) {
  const rows = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("main tbody tr td:first-child a")]);
  const at = rows.indexOf(/** @type {any} */ (document.activeElement));
  rows[Math.min(rows.length - 1, Math.max(0, at + by))]?.focus();
}

/** @param {string} name */
const press = (name) => [...document.querySelectorAll("main button")].find((button) => button.textContent === name)?.dispatchEvent(new MouseEvent("click", { bubbles: true }));

/** @param {import("./route.js").Route} route @param {() => void} help */
export function useKeys(route, help) {
  useEffect(() => {
    let isGoing = false;
    const act = (/** @type {KeyboardEvent} */ event) => {
      const target = /** @type {HTMLElement} */ (event.target);
      const isField = target.matches("input, select, textarea");
      if (event.key === "Escape" && isField) return target.blur();
      if (isField || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || areOff()) return;
      if (isGoing) {
        isGoing = false;
        if (PAGES[event.key]) go(to(PAGES[event.key]));
        return;
      }
      /** @type {Record<string, () => any>} */
      const does = {
        g: () => (isGoing = true), "/": () => /** @type {HTMLElement | null} */ (document.querySelector(".filters input, .bar input"))?.focus(),
        j: () => moveRow(1), k: () => moveRow(-1), ArrowDown: () => moveRow(1), ArrowUp: () => moveRow(-1),
        o: () => target.matches("td a") && target.click(), u: () => route.id !== null && go(to(route.page)),
        "[": () => /** @type {HTMLElement | null} */ (document.querySelector("[data-page=newer]"))?.click(),
        "]": () => /** @type {HTMLElement | null} */ (document.querySelector("[data-page=older]"))?.click(),
        r: refetchAll, p: togglePause, t: toggleTheme, "?": help,
        c: () => navigator.clipboard?.writeText(route.id ?? target.textContent ?? ""), R: () => press("Retry") ?? press("Replay"),
      };
      if (event.key.startsWith("Arrow") && !target.matches("td a")) return; // else the page scrolls
      if (!does[event.key]) return;
      event.preventDefault();
      does[event.key]();
    };
    addEventListener("keydown", act);
    return () => removeEventListener("keydown", act);
  }, [route, help]);
}

/** @param {{close: () => void}} props */
export function Keys({ close }) {
  const [off, setOff] = useState(areOff());
  const toggle = () => {
    if (off) localStorage.removeItem(OFF);
    else localStorage.setItem(OFF, "1");
    setOff(!off);
  };
  return html`<${Dialog} title="Keys" close=${close}><dl class="facts">${HELP.map(([keys, what]) => html`<div key=${keys}><dt><kbd>${keys}</kbd></dt><dd>${what}</dd></div>`)}</dl>
    <label class="check"><input type="checkbox" checked=${!off} onChange=${toggle} /><span>Single keys are on</span></label>
    <p class="buttons"><button type="button" class="primary" onClick=${close}>Close</button></p></${Dialog}>`;
}
