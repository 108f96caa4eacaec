/** Lists: a table with its filters in the address, pages by cursor, and rows that do not jump. */
import { h, html, useEffect, useMemo, useRef, useState } from "./preact.js";
import { useMay } from "./action.js";
import { go, withFilters } from "./route.js";
import { ErrorBox, isSaidElsewhere, Loading } from "./ui.js";

/**
 * A column; `size` is its width in a long list, as a track of a grid, `kind` the class of its cells.
 * @template Row
 * @typedef {{name: string, cell: (row: Row) => any, kind?: string, sort?: "ascending" | "descending", size?: string}} Column
 */
/** @typedef {{ids: Set<string>, choose: (ids: string[], isOn: boolean) => void}} Selection */

/** The page before each page that was reached by "Older". @type {Map<string, string>} */
const before = new Map();

/** The rows that are chosen; those of another address are not. @param {string} path @returns {Selection} */
export function useSelection(path) {
  const [chosen, setChosen] = useState({ path, ids: /** @type {Set<string>} */ (new Set()) });
  const ids = chosen.path === path ? chosen.ids : new Set();
  const choose = (/** @type {string[]} */ given, /** @type {boolean} */ isOn) => {
    const changed = new Set(ids);
    for (const id of given) isOn ? changed.add(id) : changed.delete(id);
    setChosen({ path, ids: changed });
  };
  return { ids, choose };
}

const ROWS_AT_FIRST = 50; // the others follow with the next frame, so that a long list is seen and used at once

/**
 * A table. `isList`: rows that are made again only if they changed, and at first laid out only in view.
 * @param {{caption: string, columns: Column<any>[], rows: any[], keyOf?: (row: any) => string, isBusy?: boolean, isList?: boolean, selection?: Selection | null}} props
 */
export function Table({ caption, columns, rows, keyOf = (row) => row.id, isBusy = false, isList = false, selection = null }) {
  const [stage, setStage] = useState(0); // the first rows, all rows, all rows laid out
  const isLong = rows.length > ROWS_AT_FIRST;
  const isWhole = stage > 0 || !isLong;
  useEffect(() => {
    if (stage === 0 && isLong) setStage(1);
    const timer = stage === 1 ? setTimeout(setStage, 500, 2) : 0;
    return () => clearTimeout(timer);
  }, [stage, isLong]);
  const made = useRef(/** @type {Map<any, any>} */ (new Map()));
  const madeFor = useRef(/** @type {any} */ (null));
  const current = useRef(/** @type {any} */ (null));
  current.current = { ids: rows.map(keyOf), selection };
  const choose = useMemo(() => (/** @type {MouseEvent} */ event) => {
    const { value: id, checked } = /** @type {HTMLInputElement} */ (event.currentTarget);
    const { ids, selection: chosen } = current.current;
    const last = event.shiftKey ? ids.findLastIndex((/** @type {string} */ one) => chosen.ids.has(one)) : -1;
    const here = ids.indexOf(id);
    chosen.choose(last < 0 ? [id] : ids.slice(Math.min(last, here), Math.max(last, here) + 1), checked);
  }, []);
  const drawn = madeFor.current === columns ? made.current : new Map();
  const drawRow = (/** @type {any} */ row) => {
    const id = keyOf(row);
    const isChosen = Boolean(selection?.ids.has(id));
    const known = drawn.get(row);
    const vnode = known?.isChosen === isChosen ? known.vnode : h("tr", { key: id }, columns.map(({ cell, kind }, at) => {
      const shown = h("td", kind ? { class: kind } : null, cell(row));
      return at === 1 && selection ? [h("td", null, h("input", { type: "checkbox", "aria-label": `Select ${id}`, value: id, checked: isChosen, onClick: choose })), shown] : shown;
    }));
    made.current.set(row, { isChosen, vnode });
    return vnode;
  };
  made.current = new Map();
  madeFor.current = columns;
  const heads = selection ? columns.toSpliced(1, 0, { name: "Select", cell: () => "", size: "2.3rem" }) : columns;
  const style = Object.fromEntries(heads.map(({ name }, at) => [`--name-${at + 1}`, `"${name}"`]));
  if (isList) {
    const sizes = heads.map(({ size = "5rem" }) => size);
    style["--columns"] = sizes.join(" ");
    style["--least"] = `${sizes.reduce((sum, size) => sum + Number(/[\d.]+/.exec(size)), 0)}rem`;
  }
  return html`<div class=${`table${isList ? " rows" : ""}${stage < 2 ? " new" : ""}`} style=${style} aria-busy=${isBusy || !isWhole}><table>
    <caption class="hidden">${caption}</caption>
    <thead><tr>${heads.map((column) => html`<th scope="col" key=${column.name} aria-sort=${column.sort} class=${column.kind === "number" && "number"}>${column.name === "Select" ? html`<span class="hidden">Select</span>` : column.name}</th>`)}</tr></thead>
    <tbody>${rows.slice(0, isWhole ? rows.length : ROWS_AT_FIRST).map(drawRow)}</tbody>
  </table></div>`;
}

/**
 * @param {{list: any, route: import("./route.js").Route, caption: string, columns: Column<any>[], empty: any, filters?: string[], keyOf?: (row: any) => string, selection?: Selection}} props
 */
export function ListBody({ list, route, caption, columns, empty, filters = [], keyOf, selection }) {
  const { rows, more, error, fresh, showFresh, reload, isBusy } = list;
  const may = useMay();
  const cursor = route.query.cursor ?? "";
  const given = filters.filter((name) => route.query[name]);
  const older = () => {
    before.set(more, cursor);
    go(withFilters(route, { cursor: more }));
  };
  const clear = Object.fromEntries(filters.map((name) => [name, ""]));
  return html`
    ${error && !isSaidElsewhere(error, rows) && html`<${ErrorBox} error=${error} again=${reload} />`}
    <div class="fresh">${fresh > 0 && !cursor && html`<button type="button" onClick=${showFresh}>${fresh} new</button>`}</div>
    ${rows === null && !error && html`<${Loading} />`}
    ${rows?.length > 0 && html`<${Table} ...${{ caption, columns, rows, keyOf, isBusy, isList: true, selection: may ? selection : null }} />`}
    ${rows?.length === 0 && (given.length
      ? html`<div class="empty"><p>Nothing matches ${given.map((name) => `${name} ${route.query[name]}`).join(", ")}.</p>
          <a class="button" href=${withFilters(route, clear)}>Clear filters</a></div>`
      : html`<div class="empty">${empty}</div>`)}
    <nav class="pages" aria-label="Pages">
      ${cursor && html`<button type="button" data-page="newer" onClick=${() => go(withFilters(route, { cursor: before.get(cursor) ?? "" }))}>Newer</button>`}
      ${more && html`<button type="button" data-page="older" onClick=${older}>Older</button>`}
    </nav>`;
}

/**
 * A form of filters that writes into the address.
 * @param {{route: import("./route.js").Route, fields: {name: string, label: string, options?: string[]}[]}} props
 */
export function Filters({ route, fields }) {
  const apply = (/** @type {Event} */ event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget);
    const given = new FormData(form.tagName === "FORM" ? form : /** @type {any} */ (event.currentTarget).form);
    go(withFilters(route, Object.fromEntries(fields.map(({ name }) => [name, String(given.get(name) ?? "").trim()]))));
  };
  return html`<form class="filters" role="search" aria-label="Filters" onSubmit=${apply} key=${JSON.stringify(route.query)}>
    ${fields.map(({ name, label, options }) => html`<label key=${name}><span>${label}</span>${options
      ? html`<select name=${name} aria-label=${label} onChange=${apply}><option value="">any</option>${options.map((option) => html`<option key=${option} value=${option} selected=${route.query[name] === option}>${option}</option>`)}</select>`
      : html`<input name=${name} value=${route.query[name] ?? ""} autocomplete="off" spellcheck=${false} />`}</label>`)}
    <button type="submit">Filter</button>
  </form>`;
}
