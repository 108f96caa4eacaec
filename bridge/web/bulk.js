/** Acting on everything that the filter selects, or on the chosen rows: on the server, counted first, part by part. */
import { html, useRef, useState } from "./preact.js";
import { post } from "./api.js";
import { Dialog, toast, useMay } from "./action.js";
import { refetchAll } from "./live.js";
import { ErrorBox, useOfflineReason } from "./ui.js";

/** @typedef {{name: string, path: string, what: string, warning: string, kind?: string}} Operation */

/** The selection as the API takes it. @param {Record<string, string>} query @param {string[]} filters @param {string[]} ids */
function selected(query, filters, ids) {
  if (ids.length) return { ids };
  const given = filters.filter((name) => query[name]).map((name) => [name, name === "status" ? query[name].split(",") : query[name]]);
  return Object.fromEntries(given);
}

/** @param {{operation: Operation, wanted: any, close: () => void, done: () => void}} props */
function BulkDialog({ operation, wanted, close, done }) {
  const [count, setCount] = useState(/** @type {any} */ (null));
  const [progress, setProgress] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const isStopped = useRef(false);
  const said = useRef(/** @type {HTMLElement | null} */ (null));
  const reason = useOfflineReason();
  const ask = async () => {
    setError(null);
    try {
      setCount(await post(operation.path, { ...wanted, dry_run: true }));
      said.current?.focus();
    } catch (problem) {
      setError(problem);
    }
  };
  const act = async () => {
    const sum = { count: 0, skipped: 0, errors: /** @type {any[]} */ ([]) };
    let cursor = "";
    setError(null);
    try {
      do {
        const part = await post(operation.path, { ...wanted, cursor });
        sum.count += Number(part.count);
        sum.skipped += Number(part.skipped);
        sum.errors.push(...part.errors);
        cursor = part.next_cursor ?? "";
        setProgress({ ...sum });
      } while (cursor && !isStopped.current);
      const more = [sum.skipped && `${sum.skipped} left alone`, cursor && "stopped before the rest"].filter(Boolean).join(", ");
      toast(`${operation.name}: ${sum.count} done${more ? `, ${more}` : ""}`);
      if (sum.errors.length) setError({ title: `${sum.errors.length} failed`, message: "The others were done.", errors: sum.errors.slice(0, 20).map((one) => ({ field: one.id, message: one.message })) });
      else close();
      refetchAll();
      done();
    } catch (problem) {
      setError(problem);
    }
    setProgress(null);
  };
  const leave = () => {
    isStopped.current = true;
    close();
  };
  const total = count && `${count.is_exact ? "" : "More than "}${count.count}`;
  return html`<${Dialog} title=${`${operation.name}?`} close=${leave}><p>${operation.warning}</p>
    <p tabindex="-1" ref=${said}>${count ? `${total} ${operation.what} selected.` : "Count first: nothing is done by that."}</p>
    ${progress && html`<p><progress max=${Number(count.count) || 1} value=${progress.count} aria-label="Progress"></progress> ${progress.count} of ${total}. Going back stops before the next part.</p>`}
    ${error && html`<${ErrorBox} error=${error} />`}
    <p class="buttons"><button type="button" onClick=${leave}>Back</button><button type="button" disabled=${Boolean(reason || progress)} onClick=${ask}>Count</button>
      <button type="button" class="primary" disabled=${Boolean(reason || progress) || !count || !Number(count.count)} onClick=${act}>${operation.name}</button></p></${Dialog}>`;
}

/**
 * The buttons of bulk operations; off until there is a filter or a chosen row.
 * @param {{operations: Operation[], route: import("./route.js").Route, filters: string[], selection: import("./table.js").Selection}} props
 */
export function Bulk({ operations, route, filters, selection }) {
  const [open, setOpen] = useState(/** @type {Operation | null} */ (null));
  const offline = useOfflineReason();
  if (!useMay()) return null;
  const ids = [...selection.ids];
  const wanted = selected(route.query, filters, ids);
  const isNothing = Object.keys(wanted).length === 0;
  const reason = offline || (isNothing ? "Set a filter or select rows first" : "");
  const scope = ids.length ? `${ids.length} selected` : "all that match";
  return html`<p class="tools bulk">${operations.map((operation) => html`<button type="button" key=${operation.name} class=${operation.kind ?? ""} disabled=${Boolean(reason)} title=${reason} onClick=${() => setOpen(operation)}>${operation.name} ${scope}</button>`)}
    ${isNothing && html`<span class="hint">Set a filter or select rows to act on many.</span>`}</p>
    ${open && html`<${BulkDialog} operation=${open} wanted=${wanted} close=${() => setOpen(null)} done=${() => selection.choose(ids, false)} />`}`;
}
