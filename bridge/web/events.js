import { html, useMemo } from "./preact.js";
import { withQuery } from "./api.js";
import { useData, useList } from "./data.js";
import { deliveryColumns } from "./deliveries.js";
import { ReplayButton, ReplayEvent } from "./replay_dialog.js";
import { to, withFilters } from "./route.js";
import { Filters, ListBody, Table } from "./table.js";
import { Facts, Heading, Id, Json, Loaded, State, Time } from "./ui.js";

export const TYPES = ["run.started", "run.progressed", "run.waiting", "run.resumed", "run.overdue", "run.finished",
  "connection.failing", "connection.recovered", "endpoint.disabled", "bridge.ping"];

/** What an event is about. @param {any} event */
function About({ event }) {
  const { run, connection, endpoint } = event.data;
  if (run) return html`<a class="id cut" href=${to("runs", run.id)}>${run.id}</a>`;
  if (connection) return html`<a href=${to("connections", connection.name)}>${connection.name}</a>`;
  return endpoint ? html`<a href=${to("endpoints", endpoint.id)}>${endpoint.id}</a>` : "–";
}

export const eventColumns = [
  { name: "Event", cell: (/** @type {import("./api.js").Schemas["EventAnswer"]} */ event) => html`<${Id} value=${event.id} href=${to("events", event.id)} />` },
  { name: "Type", cell: (/** @type {import("./api.js").Schemas["EventAnswer"]} */ event) => event.type },
  { name: "About", cell: (/** @type {import("./api.js").Schemas["EventAnswer"]} */ event) => html`<${About} event=${event} />` },
  { name: "Status", cell: (/** @type {import("./api.js").Schemas["EventAnswer"]} */ event) => (event.data.run ? html`<${State} is=${event.data.run.status} />` : "–") },
  { name: "Number", isNumber: true, cell: (/** @type {import("./api.js").Schemas["EventAnswer"]} */ event) => String(event.data.sequence ?? "–") },
  { name: "When", sort: /** @type {const} */ ("descending"), cell: (/** @type {import("./api.js").Schemas["EventAnswer"]} */ event) => html`<${Time} at=${event.timestamp} />` },
];

/** The body of an event, beside the feed. @param {{id: string, rows: any[] | null, close: string}} props */
function Beside({ id, rows, close }) {
  const known = rows?.find((row) => row.id === id);
  const fetched = useData(known || !rows ? null : `/v1/events/${encodeURIComponent(id)}`);
  return html`<section class="aside" aria-label="Body of the event"><h2>Body of <a class="id" href=${to("events", id)}>${id}</a></h2>
    ${known ? html`<${Json} value=${known} name="body" />` : html`<${Loaded} fetched=${fetched}>${(/** @type {any} */ event) => html`<${Json} value=${event} name="body" />`}</${Loaded}>`}
    <p><a class="button" href=${close}>Close</a></p></section>`;
}

/** @param {{route: import("./route.js").Route}} props */
export default function Events({ route }) {
  const { follow, show, ...query } = route.query;
  const columns = useMemo(() => eventColumns.toSpliced(2, 0, { name: "Body", cell: (event) => html`<a class="button quiet" aria-label=${`Show the body of ${event.id}`} href=${to("events", null, { ...route.query, show: event.id })}>Show</a>` }), [route]);
  const list = useList(withQuery("/v1/events", { ...query, order: "newest" }), "id", Boolean(follow));
  return html`<${Heading} title="Events"><a class="button" href=${withFilters(route, { follow: follow ? "" : "1" })}>${follow ? "Do not follow" : "Follow"}</a><${ReplayButton} types=${route.query.type} /></${Heading}>
    <${Filters} route=${route} fields=${[{ name: "type", label: "Type", options: TYPES }, { name: "run_id", label: "Run id" }]} />
    <div class=${show ? "beside" : "whole"}><div class="whole"><${ListBody} list=${list} route=${route} caption="Events, newest first" columns=${columns} filters=${["type", "run_id"]}
      empty=${html`<p>Nothing has happened yet. Register a run, and its first event appears here:</p><pre tabindex="0">runbridge runs add CONNECTION PROVIDER_RUN_ID</pre>`} /></div>
    ${show && html`<${Beside} id=${show} rows=${list.rows} close=${to("events", null, { ...route.query, show: "" })} />`}</div>`;
}

/** @param {{route: import("./route.js").Route}} props */
export function EventPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const path = `/v1/events/${encodeURIComponent(id)}`;
  const fetched = useData(path);
  const deliveries = useData(`/v1/deliveries?event=${encodeURIComponent(id)}&limit=200`);
  return html`<${Heading} title=${id} isId>${fetched.data && html`<${ReplayEvent} id=${id} />`}</${Heading}>
    <${Loaded} fetched=${fetched}>${(/** @type {import("./api.js").Schemas["EventAnswer"]} */ event) => html`
      <${Facts} rows=${[
        ["Type", event.type], ["When", html`<${Time} at=${event.timestamp} exact />`],
        ["About", html`<${About} event=${event} />`],
      ]} />
      <section><h2>Deliveries</h2><${Loaded} fetched=${deliveries}>${(/** @type {any} */ { data }) => (data.length ? html`<${Table} caption="Deliveries of this event" columns=${deliveryColumns} rows=${data} />` : html`<p>No endpoint wanted it.</p>`)}</${Loaded}></section>
      <section><h2>Body</h2><${Json} value=${event} name="body" /></section>`}</${Loaded}>`;
}

