/** What pages show: fetched, kept while it is fetched again, and lists whose rows do not jump. */
import { useCallback, useEffect, useRef, useState } from "./preact.js";
import { call, parse } from "./api.js";
import { useRefetch } from "./live.js";

/** @typedef {{data: any, error: any, isBusy: boolean, reload: () => Promise<void>}} Fetched */

/**
 * The answer at `path`, fetched again when it may be stale. What was there stays while it is fetched, and the same
 * answer stays the same object, so that nothing is drawn for it.
 * @param {string | null} path
 * @param {(text: string) => any} [read]
 * @returns {Fetched}
 */
export function useData(path, read = parse) {
  const [shown, setShown] = useState(/** @type {{path: any, data: any, error: any}} */ ({ path: null, data: null, error: null }));
  const [isBusy, setBusy] = useState(false);
  const wanted = useRef(path);
  const count = useRef(0);
  const last = useRef({ path: /** @type {string | null} */ (null), text: "", data: /** @type {any} */ (null) });
  wanted.current = path;
  const reload = useCallback(async () => {
    if (path === null) return;
    const mine = ++count.current;
    setBusy(true);
    const isLatest = () => wanted.current === path && mine === count.current;
    try {
      const data = await call("GET", path, undefined, (text) => {
        if (last.current.path !== path || last.current.text !== text) last.current = { path, text, data: read(text) };
        return last.current.data;
      });
      if (isLatest()) setShown((before) => (before.path === path && before.data === data && !before.error ? before : { path, data, error: null }));
    } catch (error) {
      if (isLatest()) setShown((before) => ({ path, data: before.path === path ? before.data : null, error }));
    } finally {
      if (isLatest()) setBusy(false);
    }
  }, [path, read]);
  useEffect(() => {
    reload();
    return () => {
      count.current += 1;
    };
  }, [reload]);
  useRefetch(reload);
  const isCurrent = shown.path === path;
  return { data: isCurrent ? shown.data : null, error: isCurrent ? shown.error : null, isBusy, reload };
}

/** The row as it was, if nothing in it changed: then it is not drawn again. @param {any} before @param {any} row */
const unchanged = (before, row) => (before && JSON.stringify(before) === JSON.stringify(row) ? before : row);

/**
 * A page of a list. Rows that came since are counted in `fresh` until `showFresh`; those that are shown stay in place.
 * With `isFollowed` they are shown at once.
 * @param {string} path
 * @param {string} [key]
 * @param {boolean} [isFollowed]
 */
export function useList(path, key = "id", isFollowed = false) {
  const fetched = useData(path);
  const kept = useRef(/** @type {{path: string, page: any, rows: any[], more: any, fresh: number} | null} */ (null));
  const [, draw] = useState(0);
  const page = fetched.data;
  const before = kept.current?.path === path ? kept.current : null;
  if (page && (page !== before?.page || (isFollowed && before?.fresh))) {
    const had = new Map(before?.rows.map((row) => [row[key], row]));
    const now = new Map(page.data.map((/** @type {any} */ row) => [row[key], unchanged(had.get(row[key]), row)]));
    const fresh = isFollowed || !had.size ? 0 : [...now.keys()].filter((id) => !had.has(id)).length;
    kept.current = fresh && before
      ? { ...before, page, fresh, rows: before.rows.map((row) => now.get(row[key]) ?? row) }
      : { path, page, fresh, rows: [...now.values()], more: page.next_cursor };
  }
  const shown = kept.current?.path === path ? kept.current : null;
  return {
    ...fetched,
    rows: shown?.rows ?? null,
    more: shown?.more ?? null,
    fresh: shown?.fresh ?? 0,
    showFresh: () => {
      kept.current = null;
      draw((count) => count + 1);
    },
  };
}

/** The names of all things at `path`, to choose from. @param {string} path @param {string} [key] @returns {string[]} */
export const useNames = (path, key = "id") => (useData(path).data?.data ?? []).map((/** @type {any} */ one) => one[key]);
