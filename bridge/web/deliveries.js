import { h, html, useMemo } from "./preact.js";
import { post, withQuery } from "./api.js";
import { Action, useRowAction } from "./action.js";
import { Bulk } from "./bulk.js";
import { useData, useList } from "./data.js";
import { parse } from "./json.js";
import { ReplayButton } from "./replays.js";
import { to } from "./route.js";
import { Filters, ListBody, useSelection } from "./table.js";
import { Copy, durationText, Facts, Foreign, Heading, idOf, Json, Loaded, stateOf, timeOf, visible } from "./ui.js";

const FILTERS = ["state", "endpoint", "event", "run", "since", "until"];

/** @type {import("./table.js").Column<import("./api.js").Schemas["DeliveryAnswer"]>[]} */
export const deliveryColumns = [
  { name: "Delivery", size: "17.4rem", cell: (one) => idOf(one.id, to("deliveries", one.id)) },
  { name: "State", size: "7.2rem", cell: (one) => stateOf(one.state) },
  { name: "Event", size: "6.6rem", cell: (one) => h("a", { href: to("events", one.event_id) }, one.event_type) },
  { name: "Endpoint", size: "minmax(4rem, .7fr)", cell: (one) => h("a", { class: "cut", href: to("endpoints", one.endpoint_id) }, one.endpoint_id) },
  { name: "Run", size: "minmax(5rem, 1fr)", cell: (one) => (one.run_id ? h("a", { href: to("runs", one.run_id), class: "id cut" }, one.run_id) : "–") },
  { name: "Attempts", size: "5rem", kind: "number", cell: (one) => String(one.attempt_count) },
  { name: "Last answer", size: "minmax(6rem, .7fr)", cell: (one) => (one.last_outcome ? `${one.last_status ?? ""} ${one.last_outcome}` : "–") },
  { name: "Created", kind: "time", size: "5.5rem", sort: "descending", cell: (one) => timeOf(one.created_at) },
  { name: "Next try", kind: "time", size: "5rem", cell: (one) => timeOf(one.next_attempt_at) },
];

/** @type {import("./bulk.js").Operation[]} */
const BULK = [{ name: "Retry", path: "/v1/deliveries/retry", what: "deliveries are", warning: "Each selected delivery is sent again with the same bytes, whatever became of it. Those whose endpoint is off are left alone." }];
const RETRY = { name: "Retry", done: "It is sent again now" };

/** @param {{route: import("./route.js").Route}} props */
export default function Deliveries({ route }) {
  const path = withQuery("/v1/deliveries", route.query);
  const list = useList(path);
  const selection = useSelection(path);
  const { button, dialog } = useRowAction(RETRY, (id) => post(`/v1/deliveries/${id}/retry`));
  const columns = useMemo(() => (button ? deliveryColumns.toSpliced(2, 0, { name: "Action", size: "3.6rem", cell: (one) => (one.state === "discarded" ? "" : button(one.id)) }) : deliveryColumns), [button]);
  const endpoints = useData("/v1/endpoints?limit=200");
  const names = (endpoints.data?.data ?? []).map((/** @type {any} */ one) => one.id);
  const { endpoint, state, since, until } = route.query;
  return html`<${Heading} title="Deliveries">${endpoint && html`<${ReplayButton} endpoint=${endpoint} since=${since} until=${until} status=${state === "exhausted" ? "exhausted" : ""} />`}</${Heading}>
    <${Filters} route=${route} fields=${[
      { name: "state", label: "State", options: ["pending", "delivered", "exhausted", "discarded"] },
      { name: "endpoint", label: "Endpoint", options: names.includes(endpoint ?? names[0]) ? names : [...names, endpoint].filter(Boolean) },
      { name: "event", label: "Event id" }, { name: "run", label: "Run id" },
      { name: "since", label: "Since" }, { name: "until", label: "Until" },
    ]} />
    <${Bulk} operations=${BULK} route=${route} filters=${FILTERS} selection=${selection} />
    <${ListBody} list=${list} route=${route} caption="Deliveries, newest first" columns=${columns} filters=${FILTERS} selection=${selection}
      empty=${html`<p>Nothing has been sent yet. Add an endpoint, and what happens from then on is sent to it:</p><pre tabindex="0">runbridge endpoints add https://example.com/hooks</pre>`} />${dialog}`;
}

/** @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The body byte by byte. @param {string} text */
const asText = (text) => text;

/** The request as a shell command, byte by byte; the signature is missing, because the secret is not here. @param {any} delivery @param {string} body @param {string} url */
function asCurl(delivery, body, url) {
  const headers = ["content-type: application/json", `webhook-id: ${delivery.event_id}`];
  return `curl -X POST ${headers.map((header) => `-H ${quoted(header)}`).join(" ")} --data-raw ${quoted(body)} ${quoted(url)}`;
}

/** @param {{attempt: any}} props */
function Attempt({ attempt }) {
  const phases = Object.entries(attempt.phases ?? {}).map(([name, ms]) => `${name.replace(/_ms$/, "")} ${ms} ms`).join(", ");
  const isGood = attempt.outcome === "delivered";
  return html`<li class="attempt"><h3>Attempt ${String(attempt.number)}${attempt.manual ? ", asked for by a person" : ""}</h3>
    <${Facts} rows=${[
      ["Outcome", html`<span class=${`state ${isGood ? "good" : "bad"}`}><span aria-hidden="true">${isGood ? "✓" : "✕"}</span>${attempt.status ?? ""} ${attempt.outcome}</span>`],
      ["Why", attempt.detail && visible(attempt.detail)],
      ["When", timeOf(attempt.at, true)],
      ["Took", `${durationText(Number(attempt.duration_ms) / 1000)}${phases ? ` (${phases})` : ""}`],
      ["Address dialled", attempt.peer && html`<bdi>${attempt.peer}</bdi>`],
      ["Next try", attempt.next_attempt_at && timeOf(attempt.next_attempt_at)],
    ]} />
    ${attempt.request_headers && html`<details><summary>Request headers, secrets masked</summary><${Facts} rows=${Object.entries(attempt.request_headers).map(([name, value]) => [name, html`<bdi>${visible(String(value))}</bdi>`])} /></details>`}
    ${attempt.response ? html`<h4>Answer${attempt.truncated ? ", its beginning" : ""}</h4><${Foreign} text=${attempt.response} name=${`answer ${attempt.number}`} />` : ""}</li>`;
}

/** @param {{route: import("./route.js").Route}} props */
export function DeliveryPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const path = `/v1/deliveries/${encodeURIComponent(id)}`;
  const fetched = useData(path);
  const found = fetched.data;
  const event = useData(found ? `/v1/events/${encodeURIComponent(found.event_id)}` : null, asText);
  const endpoint = useData(found && found.state !== "discarded" ? `/v1/endpoints/${encodeURIComponent(found.endpoint_id)}` : null);
  return html`<${Heading} title=${id} isId>${found && found.state !== "discarded" && html`<${Action} name="Retry" done="It is sent again now" run=${() => post(`${path}/retry`)} />`}</${Heading}>
    <${Loaded} fetched=${fetched}>${(/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => html`
      <${Facts} rows=${[
        ["State", stateOf(one.state)],
        ["Event", html`<a href=${to("events", one.event_id)}>${one.event_type}</a>`],
        ["Endpoint", idOf(one.endpoint_id, to("endpoints", one.endpoint_id))],
        ["Run", one.run_id && idOf(one.run_id, to("runs", one.run_id))],
        ["Created", timeOf(one.created_at, true)],
        ["Settled", one.settled_at && timeOf(one.settled_at, true)],
        ["Next try", one.next_attempt_at && timeOf(one.next_attempt_at, true)],
      ]} />
      <section><h2>Attempts</h2>${one.attempts.length ? html`<ol class="attempts">${[...one.attempts].reverse().map((/** @type {any} */ attempt) => html`<${Attempt} key=${attempt.number} attempt=${attempt} />`)}</ol>` : html`<p>None yet.</p>`}</section>
      <section><h2>Request</h2>
        <p>The same bytes at every attempt; only the time and with it the signature are new.</p>
        <${Facts} rows=${[
          ["POST", endpoint.data && html`<bdi>${visible(endpoint.data.url)}</bdi>`],
          ["content-type", "application/json"],
          ["webhook-id", idOf(one.event_id, to("events", one.event_id))],
          ["webhook-timestamp", "Unix seconds of the attempt"],
          ["webhook-signature", "v1, then HMAC-SHA256 of id.timestamp.body with the endpoint's secret, in base64; one for each live secret"],
        ]} />
        ${event.data && html`<p class="tools"><${Copy} value=${asCurl(one, event.data, endpoint.data?.url ?? "URL")} label="Copy as curl" /><${Copy} value=${event.data} label="Copy the bytes" /></p><${Json} value=${parse(event.data)} name="body" />`}</section>`}</${Loaded}>`;
}
