import { h, html, useMemo } from "./preact.js";
import { pathOf, withQuery } from "./api.js";
import { Action } from "./action.js";
import { useData, useList } from "./data.js";
import { deliveryColumns, REPLAY, replay, ReplayButton, TYPES } from "./deliveries.js";
import { to, withFilters } from "./route.js";
import { Filters, ListBody, Table } from "./table.js";
import { factsOf, Heading, idOf, jsonOf, loaded, stateOf, timeOf, worstOf } from "./ui.js";

/** What an event is about. @param {any} event */
function aboutOf({ data: { run, connection, endpoint } }) {
  if (run) return h("a", { class: "id cut", href: to("runs", run.id) }, run.id);
  if (connection) return h("a", { href: to("connections", connection.name) }, connection.name);
  return endpoint ? h("a", { href: to("endpoints", endpoint.id) }, endpoint.id) : "–";
}

/** @type {import("./table.js").Column<import("./api.js").Schemas["EventRow"]>[]} */
export const eventColumns = [
  { name: "Event", size: "17.4rem", cell: (event) => idOf(event.id, to("events", event.id)) },
  { name: "Type", size: "minmax(6rem, 1fr)", cell: (event) => event.type },
  { name: "About", size: "minmax(6rem, 1fr)", cell: aboutOf },
  { name: "Status", size: "7.6rem", cell: (event) => (event.data.run ? stateOf(event.data.run.status) : "–") },
  { name: "Number", size: "4.5rem", kind: "number", cell: (event) => String(event.data.sequence ?? "–") },
  { name: "When", kind: "time", size: "6rem", sort: "descending", cell: (event) => timeOf(event.timestamp) },
];

/** @type {import("./table.js").Column<import("./api.js").Schemas["EventRow"]>} */
const DELIVERIES = { name: "Deliveries", size: "7.6rem", cell: (event) => worstOf(event.deliveries, to("deliveries", null, { event: event.id })) };

/** The body of an event, beside the feed. @param {{id: string, rows: any[] | null, close: string}} props */
function Beside({ id, rows, close }) {
  const { deliveries: _, ...known } = rows?.find((row) => row.id === id) ?? {};
  const fetched = useData(known.id || !rows ? null : pathOf("events", id));
  return html`<section class="aside" aria-label="Body of the event"><h2>Body of <a class="id" href=${to("events", id)}>${id}</a></h2>
    ${known.id ? jsonOf(known, "body") : loaded(fetched, (event) => jsonOf(event, "body"))}
    <p><a class="button" href=${close}>Close</a></p></section>`;
}

/** @param {{route: import("./route.js").Route}} props */
export default function Events({ route }) {
  const { follow, show, ...query } = route.query;
  const columns = useMemo(() => eventColumns.toSpliced(-1, 0, DELIVERIES).toSpliced(2, 0, { name: "Body", size: "4rem", cell: (event) => h("a", { class: "button quiet", "aria-label": `Show the body of ${event.id}`, href: to("events", null, { ...route.query, show: event.id }) }, "Show") }), [route]);
  const list = useList(withQuery("/v1/events", { ...query, order: "newest", deliveries: true }), "id", Boolean(follow));
  return html`<${Heading} title="Events"><a class="button" href=${withFilters(route, { follow: follow ? "" : "1" })}>${follow ? "Do not follow" : "Follow"}</a><${ReplayButton} type=${route.query.type} /></${Heading}>
    <${Filters} route=${route} fields=${[["type", "Type", TYPES], ["run_id", "Run id"]]} />
    <div class=${show ? "beside" : "whole"}><div class="whole"><${ListBody} list=${list} route=${route} caption="Events, newest first" columns=${columns}
      empty=${html`<p>Nothing has happened yet. Register a run, and its first event appears here:</p><pre tabindex="0">runbridge runs add CONNECTION PROVIDER_RUN_ID</pre>`} /></div>
    ${show && html`<${Beside} id=${show} rows=${list.rows} close=${to("events", null, { ...route.query, show: "" })} />`}</div>`;
}

/** @param {{route: import("./route.js").Route}} props */
export function EventPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const fetched = useData(pathOf("events", id));
  const deliveries = useData(`/v1/deliveries?event=${encodeURIComponent(id)}&limit=200`);
  return html`<${Heading} title=${id} isId>${fetched.data && html`<${Action} ...${REPLAY} run=${(/** @type {any} */ given) => replay(id, given)} />`}</${Heading}>
    ${loaded(fetched, (/** @type {import("./api.js").Schemas["EventAnswer"]} */ event) => html`
      ${factsOf([["Type", event.type], ["When", timeOf(event.timestamp, true)], ["About", aboutOf(event)]])}
      <section><h2>Deliveries</h2>${loaded(deliveries, ({ data }) => (data.length ? html`<${Table} caption="Deliveries of this event" columns=${deliveryColumns} rows=${data} />` : html`<p>No endpoint wanted it.</p>`))}</section>
      <section><h2>Body</h2>${jsonOf(event, "body")}</section>`)}`;
}

