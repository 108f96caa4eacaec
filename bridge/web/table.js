/** Lists: a table with its filters in the address, pages by cursor, and rows that do not jump. */
import { html, useState } from "./preact.js";
import { useMay } from "./action.js";
import { go, withFilters } from "./route.js";
import { ErrorBox, isSaidElsewhere, Loading } from "./ui.js";

/** @typedef {{name: string, cell: (row: any) => any, isNumber?: boolean, sort?: "ascending" | "descending"}} Column */
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

/** @param {{id: string, rows: any[], keyOf: (row: any) => string, selection: Selection}} props */
function Select({ id, rows, keyOf, selection }) {
  const choose = (/** @type {MouseEvent} */ event) => {
    const isOn = /** @type {HTMLInputElement} */ (event.currentTarget).checked;
    const all = rows.map(keyOf);
    const last = event.shiftKey ? all.findLastIndex((one) => selection.ids.has(one)) : -1;
    const here = all.indexOf(id);
    selection.choose(last < 0 ? [id] : all.slice(Math.min(last, here), Math.max(last, here) + 1), isOn);
  };
  return html`<input type="checkbox" aria-label=${`Select ${id}`} checked=${selection.ids.has(id)} onClick=${choose} />`;
}

/**
 * @param {{caption: string, columns: Column[], rows: any[], keyOf?: (row: any) => string, isBusy?: boolean, selection?: Selection | null}} props
 */
export function Table({ caption, columns, rows, keyOf = (row) => row.id, isBusy = false, selection = null }) {
  const shown = [...columns];
  if (selection) shown.splice(1, 0, { name: "Select", cell: (row) => html`<${Select} ...${{ id: keyOf(row), rows, keyOf, selection }} />` });
  return html`<div class="table" aria-busy=${isBusy}><table>
    <caption class="hidden">${caption}</caption>
    <thead><tr>${shown.map((column) => html`<th scope="col" key=${column.name} aria-sort=${column.sort} class=${column.isNumber ? "number" : ""}>${column.name}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${keyOf(row)}>${shown.map((column) => html`<td key=${column.name} data-name=${column.name} class=${column.isNumber ? "number" : ""}><div>${column.cell(row)}</div></td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/**
 * @param {{list: any, route: import("./route.js").Route, caption: string, columns: Column[], empty: any, filters?: string[], keyOf?: (row: any) => string, selection?: Selection}} props
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
    ${rows?.length > 0 && html`<${Table} ...${{ caption, columns, rows, keyOf, isBusy, selection: may ? selection : null }} />`}
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
      ? html`<select name=${name} onChange=${apply}><option value="">any</option>${options.map((option) => html`<option key=${option} value=${option} selected=${route.query[name] === option}>${option}</option>`)}</select>`
      : html`<input name=${name} value=${route.query[name] ?? ""} autocomplete="off" spellcheck=${false} />`}</label>`)}
    <button type="submit">Filter</button>
  </form>`;
}
