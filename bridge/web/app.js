/** The shell: signing in, navigation, liveness, keys, and the page that the address names. */
import { h, html, render, useEffect, useRef, useState } from "./preact.js";
import { call, findSession, link, signIn, signOut } from "./api.js";
import { announce, ASK, Dialog, Session, toast, Toasts, useAttempt } from "./action.js";
import { newVersion, refetchAll, start, stop, togglePause, useLive } from "./live.js";
import { go, to, useRoute } from "./route.js";
import { recall, remember, toggleTheme, toggleZone, zoneName } from "./settings.js";
import { clockText, copyText, durationText, ErrorBox, focusHeading, Heading, valuesOf } from "./ui.js";
import Overview from "./overview.js";
import Runs, { RunPage } from "./runs.js";
import Deliveries, { DeliveryPage, ReplayPage, Replays } from "./deliveries.js";
import Endpoints, { EndpointPage } from "./endpoints.js";
import Connections, { ConnectionPage } from "./connections.js";
import Events, { EventPage } from "./events.js";
import Nodes, { NodePage } from "./nodes.js";

/** Each page: its name, the list, and the page of one thing. @type {Record<string, [string, any, any?]>} */
const PAGES = {
  overview: ["Overview", Overview], runs: ["Runs", Runs, RunPage], deliveries: ["Deliveries", Deliveries, DeliveryPage],
  endpoints: ["Endpoints", Endpoints, EndpointPage], connections: ["Connections", Connections, ConnectionPage],
  events: ["Events", Events, EventPage], replays: ["Replays", Replays, ReplayPage], nodes: ["Nodes", Nodes, NodePage],
};

/** The letter of each page behind `g`. @type {Record<string, string>} */
const LETTERS = { o: "overview", r: "runs", d: "deliveries", e: "endpoints", p: "replays", c: "connections", v: "events", n: "nodes", y: "replays" };
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

/** Have the button of this name ask, that of the row with the focus first. Whether there is one. @param {string} name @param {HTMLElement} target */
function ask(name, target) {
  const buttons = [target.closest("tr"), document.querySelector("main")].flatMap((place) => [...(place?.querySelectorAll("button:enabled") ?? [])]);
  const button = /** @type {HTMLElement | undefined} */ (buttons.find((one) => one.textContent === name));
  button?.focus();
  button?.dispatchEvent(new Event(ASK));
  return Boolean(button);
}

/** @param {string} selector */
const press = (selector) => /** @type {HTMLElement | null} */ (document.querySelector(selector))?.click();

/** Heed keys. The listener lives as long as the shell, so that a redraw between "g" and its letter loses nothing. @param {import("./route.js").Route} route @param {() => void} help */
function useKeys(route, help) {
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
        if (LETTERS[event.key]) go(to(LETTERS[event.key]));
        return;
      }
      /** @type {Record<string, () => any>} */
      const does = {
        g: () => (isGoing = true), "/": () => /** @type {HTMLElement | null} */ (document.querySelector("main .filters input") ?? document.querySelector(".bar input"))?.focus(),
        j: () => moveRow(1), k: () => moveRow(-1), ArrowDown: () => moveRow(1), ArrowUp: () => moveRow(-1),
        o: () => target.matches("td a") && target.click(), u: () => route.id !== null && go(to(route.page)),
        "[": () => press("[data-page=newer]"), "]": () => press("[data-page=older]"), x: () => press("tr:focus-within input[type=checkbox]"),
        r: refetchAll, p: togglePause, t: toggleTheme, "?": help,
        c: () => copyId(target, route.id), R: () => ask("Retry", target) || ask("Replay", target),
      };
      const isInList = target.matches("td a") || (target.matches("h1, body") && document.querySelector(".rows"));
      if (event.key.startsWith("Arrow") && !isInList) return; // else the page scrolls
      if (!does[event.key]) return;
      event.preventDefault();
      does[event.key]();
    };
    addEventListener("keydown", act);
    return () => removeEventListener("keydown", act);
  }, []);
}

/** @param {{close: () => void}} props */
function Keys({ close }) {
  const [off, setOff] = useState(areOff());
  const toggle = () => {
    remember("keys-off", off ? null : "1");
    setOff(!off);
  };
  return html`<${Dialog} title="Keys" close=${close}><dl class="facts">${HELP.map(([keys, what]) => html`<div key=${keys}><dt><kbd>${keys}</kbd></dt><dd>${what}</dd></div>`)}</dl>
    <label class="check"><input type="checkbox" checked=${!off} onChange=${toggle} /><span>Single keys are on</span></label>
    <p class="buttons"><button type="button" class="primary" onClick=${close}>Close</button></p></${Dialog}>`;
}

/** The form; `isOver`: over the page, when the session ended under it. @param {{signedIn: (session: any) => void, isOver?: boolean}} props */
function SignIn({ signedIn, isOver = false }) {
  const { error, isBusy, attempt } = useAttempt();
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    const { token } = valuesOf(event);
    attempt(async () => signedIn(await signIn({ token })));
  };
  useEffect(() => {
    if (!isOver) document.title = "Sign in · runbridge";
    /** @type {HTMLElement | null} */ (document.querySelector("[name=token]"))?.focus();
  }, []);
  const form = html`<form class="stack" onSubmit=${submit}>${!isOver && html`<h1>runbridge</h1>`}
    <input class="hidden" name="username" autocomplete="username" value="runbridge" tabindex="-1" aria-hidden="true" readonly /><label><span>API token</span><input type="password" name="token" required autocomplete="current-password" /></label>
    ${error && html`<${ErrorBox} error=${error} />`}
    <button type="submit" class="primary" disabled=${isBusy}>Sign in</button>
    <p class="hint">The token stands in the configuration under <code>[server] api_token</code>. The command <code>runbridge dashboard</code> opens this page signed in.</p></form>`;
  return isOver ? html`<${Dialog} title="Sign in again" kind="over">${form}</${Dialog}>` : html`<main class="sign-in">${form}</main>`;
}

function Liveness() {
  const live = useLive();
  const [, tick] = useState(0);
  const isLive = live.status === "Live";
  useEffect(() => {
    if (!isLive) announce(live.status);
    const timer = isLive ? 0 : setInterval(() => tick((count) => count + 1), 1000);
    return () => {
      clearInterval(timer);
      if (!isLive) announce("Live again");
    };
  }, [live.status]);
  const seconds = (/** @type {number} */ ms) => durationText(Math.max(0, Math.ceil(ms / 1000)));
  const more = live.status === "Disconnected"
    ? `as of ${clockText(new Date(live.since), "medium")}, ${seconds(Date.now() - live.since)} ago, trying again in ${seconds(live.retryAt - Date.now())}`
    : live.status === "Paused" ? `${live.waiting} ${live.waiting === 1 ? "change waits" : "changes wait"}` : "";
  const isPaused = live.status === "Paused";
  return html`<span class=${`live ${live.status.toLowerCase()}`}><span role="status" aria-live="off">${live.status}</span>${more && html` <small>${more}</small>`}</span>
    <button type="button" class="quiet" onClick=${togglePause} aria-pressed=${isPaused}>${isPaused ? "Go on" : "Pause"}</button>
    <button type="button" class="quiet" onClick=${refetchAll}>Refresh</button>`;
}

/** The page of each kind of id. @type {Record<string, string>} */
const KINDS = { run: "runs", dlv: "deliveries", evt: "events", rpl: "replays", ep: "endpoints", node: "nodes" };

/** The address of what has this id or name, else of the runs that it may stand for; `key=value` stands for metadata. @param {string} id */
async function addressOf(id) {
  const kind = /^([a-z]+)_[0-9a-z]{26}$/.exec(id.toLowerCase())?.[1] ?? "";
  if (KINDS[kind]) return to(KINDS[kind], id.toLowerCase());
  const at = id.indexOf("=");
  if (at > 0) return to("runs", null, { [`metadata.${id.slice(0, at)}`]: id.slice(at + 1) });
  for (const [page, key, query] of [["endpoints", "id", "?limit=200"], ["connections", "name", ""]]) {
    const { data } = await call("GET", `/v1/${page}${query}`).catch(() => ({ data: [] }));
    if (data.some((/** @type {any} */ one) => one[key] === id)) return to(page, id);
  }
  return to("runs", null, { q: id });
}

/** @param {{session: any, signedOut: () => void, help: () => void, redraw: () => void}} props */
function Bar({ session, signedOut, help, redraw }) {
  useLive();
  const leave = async () => {
    try {
      await signOut();
      signedOut();
    } catch (problem) {
      toast("", problem);
    }
  };
  const find = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const { id } = valuesOf(event);
    /** @type {HTMLFormElement} */ (event.currentTarget).reset();
    if (id) go(await addressOf(id));
  };
  const version = newVersion();
  const changeZone = () => {
    toggleZone();
    redraw();
  };
  return html`<header class="bar"><a class="brand" href="#/overview">runbridge <small>${location.host}</small></a>
    <form role="search" aria-label="By id" onSubmit=${find}><input name="id" aria-label="Find by any id" title="An id, its beginning, a name, or metadata as key=value" placeholder="Find by any id" autocomplete="off" spellcheck=${false} /></form>
    <${Liveness} />${version && html`<button type="button" onClick=${() => location.reload()}>Reload for ${version}</button>`}
    ${Math.abs(link.skewMs) > 5000 && html`<small class="warn">this computer's clock is ${durationText(Math.abs(link.skewMs) / 1000)} ${link.skewMs > 0 ? "behind" : "ahead"}</small>`}
    <span class="tools"><button type="button" class="quiet" title="Times in UTC, or in this computer's zone" onClick=${changeZone}>${zoneName()}</button>
      <button type="button" class="quiet" onClick=${toggleTheme}>Theme</button><button type="button" class="quiet" onClick=${help}>Keys</button></span>
    <span class="who">${session.token}${session.read_only || session.scope === "read" ? ", read only" : ""}</span>
    <button type="button" class="quiet" onClick=${leave}>Sign out</button></header>`;
}

/** @param {{session: any, signedOut: () => void}} props */
function Shell({ session, signedOut }) {
  const route = useRoute();
  const [isHelpOpen, setHelpOpen] = useState(false);
  const [drawn, setDrawn] = useState(0);
  const help = () => setHelpOpen(true);
  useKeys(route, help);
  const [, List, One] = PAGES[route.page] ?? ["", Missing];
  const page = route.id !== null && One ? One : List;
  const key = `${route.page}/${route.id ?? ""}`;
  useEffect(() => {
    const shown = document.querySelector("h1");
    if (document.activeElement?.closest("dialog") === null) shown?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [key, route.query.cursor]);
  useEffect(() => {
    if (document.activeElement === document.body) focusHeading(); // what had the focus is gone
  }, [route.address]);
  return html`<${Session.Provider} value=${session}><a class="skip" href="#main" onClick=${(/** @type {Event} */ event) => {
      event.preventDefault();
      focusHeading();
    }}>To the content</a>
    <${Bar} ...${{ session, signedOut, help }} redraw=${() => setDrawn(drawn + 1)} />
    <div class="columns"><nav class="side" aria-label="Pages of the dashboard"><ul>${Object.entries(PAGES).map(([name, [title]]) => html`<li key=${name}><a href=${to(name)} aria-current=${route.page === name ? "page" : undefined}>${title}</a></li>`)}</ul></nav>
    <main id="main" data-address=${route.address}>${h(page, { key: `${key} ${drawn}`, route })}</main></div><${Toasts} />
    ${isHelpOpen && html`<${Keys} close=${() => setHelpOpen(false)} />`}</${Session.Provider}>`;
}

function Missing() {
  return html`<${Heading} title="Not found" /><p>There is no such page. <a href="#/overview">Overview</a></p>`;
}

function App() {
  const [session, setSession] = useState(/** @type {any} */ (undefined));
  const [error, setError] = useState(null);
  const [isOver, setOver] = useState(false); // signed out under the open page: sign-in over it, its address kept
  const enter = (/** @type {any} */ found) => {
    setSession(found);
    setOver(false);
    if (found) {
      start(found.version);
      refetchAll();
    }
  };
  const leave = () => {
    stop();
    setSession(null);
  };
  useEffect(() => {
    link.onSignedOut = () => {
      stop();
      setOver(true);
    };
    const secret = location.hash.startsWith("#sign-in=") ? location.hash.slice(9) : "";
    if (secret) history.replaceState(null, "", "#/overview");
    (secret ? signIn({ link: secret }) : findSession()).then(enter, (problem) => {
      setSession(null);
      setError(problem);
    });
  }, []);
  if (session === undefined) return null;
  if (session === null) return html`${error && html`<div class="sign-in"><${ErrorBox} error=${error} /></div>`}<${SignIn} signedIn=${enter} />`;
  return html`<${Shell} session=${session} signedOut=${leave} />${isOver && html`<${SignIn} signedIn=${enter} isOver />`}`;
}

render(html`<${App} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
