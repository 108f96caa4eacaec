/** Lists: a table with its filters in the address, pages by cursor, and rows that do not jump. */
import { html } from "./preact.js";
import { go, withFilters } from "./route.js";
import { ErrorBox, Loading } from "./ui.js";

/** @typedef {{name: string, cell: (row: any) => any, isNumber?: boolean}} Column */

/** The page before each page that was reached by "Older". @type {Map<string, string>} */
const before = new Map();

/**
 * @param {{caption: string, columns: Column[], rows: any[], keyOf?: (row: any) => string}} props
 */
export function Table({ caption, columns, rows, keyOf = (row) => row.id }) {
  return html`<div class="table"><table>
    <caption class="hidden">${caption}</caption>
    <thead><tr>${columns.map((column) => html`<th scope="col" key=${column.name} class=${column.isNumber ? "number" : ""}>${column.name}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${keyOf(row)}>${columns.map((column) => html`<td key=${column.name} data-name=${column.name} class=${column.isNumber ? "number" : ""}><div>${column.cell(row)}</div></td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/**
 * @param {{list: any, route: import("./route.js").Route, caption: string, columns: Column[], empty: any, filters?: string[], keyOf?: (row: any) => string}} props
 */
export function ListBody({ list, route, caption, columns, empty, filters = [], keyOf }) {
  const { rows, more, error, fresh, showFresh, reload } = list;
  const cursor = route.query.cursor ?? "";
  const given = filters.filter((name) => route.query[name]);
  const older = () => {
    before.set(more, cursor);
    go(withFilters(route, { cursor: more }));
  };
  const clear = Object.fromEntries(filters.map((name) => [name, ""]));
  return html`
    ${error && html`<${ErrorBox} error=${error} again=${reload} />`}
    <div class="fresh">${fresh > 0 && !cursor && html`<button type="button" onClick=${showFresh}>${fresh} new</button>`}</div>
    ${rows === null && !error && html`<${Loading} />`}
    ${rows?.length > 0 && html`<${Table} ...${{ caption, columns, rows, keyOf }} />`}
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
  return html`<form class="filters" role="search" onSubmit=${apply} key=${JSON.stringify(route.query)}>
    ${fields.map(({ name, label, options }) => html`<label key=${name}><span>${label}</span>${options
      ? html`<select name=${name} onChange=${apply}><option value="">any</option>${options.map((option) => html`<option key=${option} value=${option} selected=${route.query[name] === option}>${option}</option>`)}</select>`
      : html`<input name=${name} value=${route.query[name] ?? ""} autocomplete="off" spellcheck=${false} />`}</label>`)}
    <button type="submit">Filter</button>
  </form>`;
}
