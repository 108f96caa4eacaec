/** What pages show: fetched, kept while it is fetched again, and lists whose rows do not jump. */
import { useCallback, useEffect, useRef, useState } from "./preact.js";
import { get } from "./api.js";
import { useRefetch } from "./live.js";

/** @typedef {{data: any, error: any, isBusy: boolean, reload: () => Promise<void>}} Fetched */

/**
 * The answer at `path`, fetched again when it may be stale. What was there stays while it is fetched.
 * @param {string | null} path
 * @param {(path: string) => Promise<any>} [read]
 * @returns {Fetched}
 */
export function useData(path, read = get) {
  const [shown, setShown] = useState(/** @type {{path: any, data: any, error: any}} */ ({ path: null, data: null, error: null }));
  const [isBusy, setBusy] = useState(false);
  const wanted = useRef(path);
  const count = useRef(0);
  wanted.current = path;
  const reload = useCallback(async () => {
    if (path === null) return;
    const mine = ++count.current;
    setBusy(true);
    const isLatest = () => wanted.current === path && mine === count.current;
    try {
      const data = await read(path);
      if (isLatest()) setShown({ path, data, error: null });
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

/**
 * A page of a list. Rows that came since are counted in `fresh` until `showFresh`; those that are shown stay in place.
 * With `isFollowed` they are shown at once.
 * @param {string} path
 * @param {string} [key]
 * @param {boolean} [isFollowed]
 */
export function useList(path, key = "id", isFollowed = false) {
  const fetched = useData(path);
  const kept = useRef(/** @type {{path: string, rows: any[], more: any} | null} */ (null));
  const [, draw] = useState(0);
  const page = fetched.data;
  let fresh = 0;
  if (page && (kept.current?.path !== path || kept.current.rows.length === 0 || isFollowed)) {
    kept.current = { path, rows: page.data, more: page.next_cursor };
  } else if (page && kept.current) {
    const now = new Map(page.data.map((/** @type {any} */ row) => [row[key], row]));
    const had = new Set(kept.current.rows.map((row) => row[key]));
    fresh = page.data.filter((/** @type {any} */ row) => !had.has(row[key])).length;
    kept.current.rows = kept.current.rows.map((row) => now.get(row[key]) ?? row);
    if (!fresh) kept.current = { path, rows: page.data, more: page.next_cursor };
  }
  const isKept = kept.current?.path === path;
  return {
    ...fetched,
    rows: isKept ? kept.current?.rows : null,
    more: isKept ? kept.current?.more : null,
    fresh,
    showFresh: () => {
      kept.current = null;
      draw((count) => count + 1);
    },
  };
}
