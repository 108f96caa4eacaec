/** Lists: a table with its filters in the address, pages by cursor, and rows that do not jump. */
import { h, html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./preact.js";
import { useMay } from "./action.js";
import { filtersOf, go, withFilters } from "./route.js";
import { showRows } from "./rows.js";
import { choice, ErrorBox, field, focusHeading, isSaidElsewhere, Loading, valuesOf } from "./ui.js";

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

/**
 * A table. `isList`: a long one, of which at first only the rows in view are laid out.
 * @param {{caption: string, columns: Column<any>[], rows: any[], keyOf?: (row: any) => string, isBusy?: boolean, isList?: boolean, selection?: Selection | null}} props
 */
export function Table({ caption, columns, rows, keyOf = (row) => row.id, isBusy = false, isList = false, selection = null }) {
  const [isNew, setNew] = useState(true);
  useEffect(() => {
    const timer = setTimeout(setNew, 500, false);
    return () => clearTimeout(timer);
  }, []);
  const current = useRef(/** @type {any} */ (null));
  current.current = { ids: rows.map(keyOf), selection };
  const choose = (/** @type {MouseEvent} */ event) => {
    const { value: id, checked } = /** @type {HTMLInputElement} */ (event.currentTarget);
    const { ids, selection: chosen } = current.current;
    const last = event.shiftKey ? ids.findLastIndex((/** @type {string} */ one) => chosen.ids.has(one)) : -1;
    const here = ids.indexOf(id);
    chosen.choose(last < 0 ? [id] : ids.slice(Math.min(last, here), Math.max(last, here) + 1), checked);
  };
  const box = (/** @type {any} */ row) => h("input", { type: "checkbox", "aria-label": `Select ${keyOf(row)}`, value: keyOf(row), onClick: choose });
  const shown = useMemo(() => (selection ? columns.toSpliced(1, 0, { name: "Select", kind: "box", cell: box, size: "2.3rem" }) : columns), [columns, !selection]);
  const body = useRef(null);
  const drawn = useRef(/** @type {import("./rows.js").Drawn} */ ({ columns: null, rows: new Map() }));
  useLayoutEffect(() => {
    const draw = (/** @type {any} */ row) => h("tr", null, shown.map(({ cell, kind }) => h("td", kind ? { class: kind } : null, cell(row))));
    drawn.current = showRows(body.current, drawn.current, shown, rows, keyOf, draw);
    if (selection) for (const input of body.current.querySelectorAll("input")) input.checked = selection.ids.has(input.value);
  }, [shown, rows, selection?.ids]);
  const style = Object.fromEntries(shown.map(({ name }, at) => [`--name-${at + 1}`, `"${name}"`]));
  if (isList) {
    const sizes = shown.map(({ size = "5rem" }) => size);
    style["--columns"] = sizes.join(" ");
    style["--least"] = `${sizes.reduce((sum, size) => sum + Number(/[\d.]+/.exec(size)), 0)}rem`;
  }
  return html`<div class=${`table${isList ? " rows" : ""}${isNew ? " new" : ""}`} style=${style} aria-busy=${isBusy}><table>
    <caption class="hidden">${caption}</caption>
    <thead><tr>${shown.map((column) => html`<th scope="col" key=${column.name} aria-sort=${column.sort} class=${column.kind === "number" && "number"}>${column.name === "Select" ? html`<span class="hidden">Select</span>` : column.name}</th>`)}</tr></thead>
    <tbody ref=${body}></tbody>
  </table></div>`;
}

/**
 * A short table; each column has a name, what its cells show, and perhaps their class.
 * @template Row
 * @param {string} caption @param {Row[]} rows @param {[name: string, cell: (row: Row) => any, kind?: string][]} columns @param {(row: Row) => string} [keyOf]
 */
export const tableOf = (caption, rows, columns, keyOf) => h(Table, { caption, rows, keyOf, columns: columns.map(([name, cell, kind]) => ({ name, cell, kind })) });

/**
 * @param {{list: any, route: import("./route.js").Route, caption: string, columns: Column<any>[], empty: any, keyOf?: (row: any) => string, selection?: Selection}} props
 */
export function ListBody({ list, route, caption, columns, empty, keyOf, selection }) {
  const { rows, more, error, fresh, showFresh, reload, isBusy } = list;
  const may = useMay();
  const cursor = route.query.cursor ?? "";
  const given = filtersOf(route);
  const older = () => {
    before.set(more, cursor);
    go(withFilters(route, { cursor: more }));
  };
  const showNew = () => {
    showFresh();
    focusHeading(); // the button goes
  };
  return html`
    ${error && !isSaidElsewhere(error, rows) && html`<${ErrorBox} error=${error} again=${reload} />`}
    <div class="fresh">${fresh > 0 && !cursor && html`<button type="button" onClick=${showNew}>${fresh} new</button>`}</div>
    ${rows === null && !error && html`<${Loading} />`}
    ${rows?.length > 0 && html`<${Table} ...${{ caption, columns, rows, keyOf, isBusy, isList: true, selection: may ? selection : null }} />`}
    ${rows?.length === 0 && (given.length
      ? html`<div class="empty"><p>Nothing matches ${given.map((pair) => pair.join(" ")).join(", ")}.</p>
          <a class="button" onClick=${focusHeading} href=${withFilters(route, Object.fromEntries(given.map(([name]) => [name, ""])))}>Clear filters</a></div>`
      : html`<div class="empty">${empty}</div>`)}
    <nav class="pages" aria-label="Pages">
      ${cursor && html`<button type="button" data-page="newer" onClick=${() => go(withFilters(route, { cursor: before.get(cursor) ?? "" }))}>Newer</button>`}
      ${more && html`<button type="button" data-page="older" onClick=${older}>Older</button>`}
    </nav>`;
}

/**
 * A form of filters that writes into the address.
 * @param {{route: import("./route.js").Route, fields: [name: string, label: string, options?: string[]][]}} props
 */
export function Filters({ route, fields }) {
  const apply = (/** @type {Event} */ event) => {
    event.preventDefault();
    go(withFilters(route, valuesOf(event)));
  };
  const submit = (/** @type {any} */ event) => event.currentTarget.form.requestSubmit();
  const form = useRef(null);
  useEffect(() => {
    for (const [name] of fields) form.current.elements[name].value = route.query[name] ?? "";
  }, [JSON.stringify(route.query)]);
  return html`<form ref=${form} class="filters" role="search" aria-label="Filters" onSubmit=${apply}>
    ${fields.map(([name, label, options]) => (options
      ? choice(label, name, [["", "any"], ...options], route.query[name], { onChange: submit })
      : field(label, name, { defaultValue: route.query[name], spellcheck: false })))}
    <button type="submit">Filter</button>
  </form>`;
}
