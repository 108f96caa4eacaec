/**
 * Whether what is shown is fresh: one event stream per browser, held by one tab and shared with the others.
 *
 * It only says that something changed; pages fetch again what they show, at most every two seconds.
 */
import { useEffect, useState } from "./preact.js";
import { findSession, link } from "./api.js";

const REFETCH_MIN_MS = 2000;
const REFETCH_ALL_MS = 15000; // deliveries and nodes change without an event
const BACKOFF_MS = [1000, 30000];
const LOCK = "runbridge-live";

/** @typedef {"Live" | "Paused" | "Disconnected"} Status */
/** @type {{status: Status, since: number, waiting: number, retryAt: number, version: string | null}} */
let state = { status: "Live", since: Date.now(), waiting: 0, retryAt: 0, version: null };
const watchers = new Set();
const refetchers = new Set();
const channel = "BroadcastChannel" in globalThis ? new BroadcastChannel(LOCK) : null;

let isOn = false;
let isPaused = false;
let isDown = false;
let backoffMs = BACKOFF_MS[0];
let lastEventId = "";
/** The daemon's version when this page was loaded from it. @type {string | null} */
let pageVersion = null;

/** The version to reload for, if the daemon has another one than this page. */
export const newVersion = () => (pageVersion !== null && state.version !== pageVersion ? state.version : null);
let refetchedAt = 0;
/** @type {EventSource | null} */
let source = null;
/** @type {(() => void) | null} */
let releaseLock = null;
/** @type {AbortController | null} */
let waitingForLock = null;
/** @type {number | undefined} */
let refetchTimer;
/** @type {number | undefined} */
let retryTimer;

/** @param {Partial<typeof state>} change */
function show(change) {
  const status = isDown ? "Disconnected" : isPaused ? "Paused" : "Live";
  state = { ...state, ...change, status, since: status === state.status ? state.since : Date.now() };
  for (const watch of watchers) watch(state);
}

/** Begin, after signing in. @param {string} version */
export function start(version) {
  if (isOn) return;
  isOn = true;
  isDown = false;
  pageVersion ??= version;
  show({ version, waiting: 0 });
  if (!document.hidden) lead();
}

/** End, at signing out. */
export function stop() {
  isOn = false;
  clearTimeout(retryTimer);
  clearTimeout(refetchTimer);
  closeStream();
}

export function togglePause() {
  isPaused = !isPaused;
  show({ waiting: 0 });
  if (!isPaused) refetchAll();
}

/** Fetch everything that is shown again, now. */
export function refetchAll() {
  refetchedAt = Date.now();
  clearTimeout(refetchTimer);
  refetchTimer = undefined;
  for (const refetch of refetchers) refetch();
}

/** So many events happened: fetch again, soon. @param {number} count */
export function markStale(count) {
  if (isPaused) show({ waiting: state.waiting + count });
  else if (!document.hidden && refetchTimer === undefined) {
    refetchTimer = setTimeout(refetchAll, Math.max(150, refetchedAt + REFETCH_MIN_MS - Date.now()));
  }
}

/** Something may have changed unseen: fetch again, unless paused. */
function missed() {
  if (isPaused) show({ waiting: state.waiting + 1 });
  else refetchAll();
}

function lead() {
  if (source || waitingForLock) return;
  if (!navigator.locks) return openStream(); // not over plain HTTP from another machine: then one stream per tab
  waitingForLock = new AbortController();
  const hold = () => new Promise((resolve) => {
    releaseLock = () => resolve(undefined);
    openStream();
    if (Date.now() - refetchedAt > REFETCH_MIN_MS) markStale(1); // what happened before this tab led
  });
  navigator.locks.request(LOCK, { signal: waitingForLock.signal }, hold).catch(() => {});
}

function openStream() {
  source?.close();
  source = new EventSource(`/v1/events/stream?changes=true${lastEventId ? `&after=${encodeURIComponent(lastEventId)}` : ""}`);
  source.onopen = () => {
    up();
    channel?.postMessage({ kind: "up" });
  };
  source.onerror = () => {
    source?.close();
    lastEventId = ""; // it may be kept no longer, and everything is fetched again after a gap
    down();
    channel?.postMessage({ kind: "down" });
  };
  source.addEventListener("changed", (message) => {
    lastEventId = message.lastEventId;
    const { events } = JSON.parse(message.data);
    markStale(events);
    channel?.postMessage({ kind: "changed", events });
  });
}

function closeStream() {
  source?.close();
  source = null;
  releaseLock?.();
  releaseLock = null;
  waitingForLock?.abort();
  waitingForLock = null;
}

function up() {
  const wasDown = isDown;
  isDown = false;
  backoffMs = BACKOFF_MS[0];
  clearTimeout(retryTimer);
  retryTimer = undefined;
  show({ retryAt: 0 });
  if (wasDown) missed();
}

function down() {
  if (!isOn || retryTimer !== undefined) return;
  isDown = true;
  const delayMs = backoffMs * (0.7 + Math.random() * 0.6);
  backoffMs = Math.min(backoffMs * 2, BACKOFF_MS[1]);
  show({ retryAt: Date.now() + delayMs });
  retryTimer = setTimeout(retry, delayMs);
}

/** Ask for the session: it tells whether the daemon answers, whether we are still known, and its version. */
async function noteVersion() {
  try {
    const session = await findSession();
    if (session) show({ version: session.version });
    else link.onSignedOut();
    return Boolean(session);
  } catch {
    down();
    return false;
  }
}

async function retry() {
  retryTimer = undefined;
  if (!(await noteVersion())) return;
  if (source) openStream();
  else up();
}

link.onUnreachable = down;
link.onSkew = () => show({});
channel?.addEventListener("message", ({ data }) => {
  if (!isOn || source) return;
  if (data.kind === "changed") markStale(data.events);
  else if (data.kind === "up") up();
  else if (data.kind === "down") down();
});
document.addEventListener("visibilitychange", () => {
  if (!isOn) return;
  if (document.hidden) return closeStream();
  lead();
  noteVersion();
  if (!isPaused) refetchAll();
});
setInterval(() => {
  if (isOn && !document.hidden && !isPaused && !isDown) refetchAll();
}, REFETCH_ALL_MS);

/** The liveness, followed as it changes. */
export function useLive() {
  const [shown, setShown] = useState(state);
  useEffect(() => {
    watchers.add(setShown);
    setShown(state);
    return () => {
      watchers.delete(setShown);
    };
  }, []);
  return shown;
}

/** Call `refetch` whenever what is shown may be stale. @param {() => void} refetch */
export function useRefetch(refetch) {
  useEffect(() => {
    refetchers.add(refetch);
    return () => {
      refetchers.delete(refetch);
    };
  }, [refetch]);
}
