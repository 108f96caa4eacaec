/** What was sent and answered, and what is sent again: deliveries and replays. */
import { h, html, useMemo, useRef, useState } from "./preact.js";
import { now, parse, pathOf, post, withQuery } from "./api.js";
import { Action, Bulk, FormDialog, Opener, toast, useRowAction } from "./action.js";
import { useData, useList, useNames } from "./data.js";
import { refetchAll } from "./live.js";
import { go, to } from "./route.js";
import { Filters, ListBody, useSelection } from "./table.js";
import { choice, Copy, durationText, factsOf, field, foreignOf, Heading, idOf, jsonOf, loaded, stateOf, timeOf, visible } from "./ui.js";

/** The states of a delivery. */
export const STATES = ["pending", "delivered", "exhausted", "discarded"];

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

/** @type {import("./action.js").Operation[]} */
const BULK = [{ name: "Retry", path: "/v1/deliveries/retry", what: "deliveries are", warning: "Each selected delivery is sent again with the same bytes, whatever became of it. Those whose endpoint is off are left alone." }];
const RETRY = { name: "Retry", done: "It is sent again now" };

/** @param {{route: import("./route.js").Route}} props */
export default function Deliveries({ route }) {
  const path = withQuery("/v1/deliveries", route.query);
  const list = useList(path);
  const selection = useSelection(path);
  const { button, dialog } = useRowAction(RETRY, (id) => post(`${pathOf("deliveries", id)}/retry`));
  const columns = useMemo(() => (button ? deliveryColumns.toSpliced(2, 0, { name: "Action", size: "3.6rem", cell: (one) => (one.state === "discarded" ? "" : button(one.id)) }) : deliveryColumns), [button]);
  const endpoints = useNames("/v1/endpoints?limit=200");
  const { endpoint, state, since, until } = route.query;
  return html`<${Heading} title="Deliveries">${endpoint && html`<${ReplayButton} endpoint=${endpoint} since=${since} until=${until} status=${state === "exhausted" ? "exhausted" : ""} />`}</${Heading}>
    <${Filters} route=${route} fields=${[
      ["state", "State", STATES], ["endpoint", "Endpoint", endpoints], ["event", "Event id"], ["run", "Run id"], ["since", "Since"], ["until", "Until"],
    ]} />
    <${Bulk} operations=${BULK} route=${route} selection=${selection} />
    <${ListBody} list=${list} route=${route} caption="Deliveries, newest first" columns=${columns} selection=${selection}
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
    ${factsOf([
      ["Outcome", html`<span class=${`state ${isGood ? "good" : "bad"}`}><span aria-hidden="true">${isGood ? "✓" : "✕"}</span>${attempt.status ?? ""} ${attempt.outcome}</span>`],
      ["Why", attempt.detail && visible(attempt.detail)],
      ["When", timeOf(attempt.at, true)],
      ["Took", `${durationText(Number(attempt.duration_ms) / 1000)}${phases ? ` (${phases})` : ""}`],
      ["Address dialled", attempt.peer && html`<bdi>${attempt.peer}</bdi>`],
      ["Next try", attempt.next_attempt_at && timeOf(attempt.next_attempt_at)],
    ])}
    ${attempt.request_headers && html`<details><summary>Request headers, secrets masked</summary>${factsOf(Object.entries(attempt.request_headers).map(([name, value]) => [name, html`<bdi>${visible(String(value))}</bdi>`]))}</details>`}
    ${attempt.response ? html`<h4>Answer${attempt.truncated ? ", its beginning" : ""}</h4>${foreignOf(attempt.response, `answer ${attempt.number}`)}` : ""}</li>`;
}

/** @param {{route: import("./route.js").Route}} props */
export function DeliveryPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const path = pathOf("deliveries", id);
  const fetched = useData(path);
  const found = fetched.data;
  const event = useData(found ? pathOf("events", found.event_id) : null, asText);
  const endpoint = useData(found && found.state !== "discarded" ? pathOf("endpoints", found.endpoint_id) : null);
  return html`<${Heading} title=${id} isId>${found && found.state !== "discarded" && html`<${Action} name="Retry" done="It is sent again now" run=${() => post(`${path}/retry`)} />`}</${Heading}>
    ${loaded(fetched, (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => html`
      ${factsOf([
        ["State", stateOf(one.state)],
        ["Event", html`<a href=${to("events", one.event_id)}>${one.event_type}</a>`],
        ["Endpoint", idOf(one.endpoint_id, to("endpoints", one.endpoint_id))],
        ["Run", one.run_id && idOf(one.run_id, to("runs", one.run_id))],
        ["Created", timeOf(one.created_at, true)],
        ["Settled", one.settled_at && timeOf(one.settled_at, true)],
        ["Next try", one.next_attempt_at && timeOf(one.next_attempt_at, true)],
      ])}
      <section><h2>Attempts</h2>${one.attempts.length ? html`<ol class="attempts">${[...one.attempts].reverse().map((/** @type {any} */ attempt) => html`<${Attempt} key=${attempt.number} attempt=${attempt} />`)}</ol>` : html`<p>None yet.</p>`}</section>
      <section><h2>Request</h2>
        <p>The same bytes at every attempt; only the time and with it the signature are new.</p>
        ${factsOf([
          ["POST", endpoint.data && html`<bdi>${visible(endpoint.data.url)}</bdi>`],
          ["content-type", "application/json"],
          ["webhook-id", idOf(one.event_id, to("events", one.event_id))],
          ["webhook-timestamp", "Unix seconds of the attempt"],
          ["webhook-signature", "v1, then HMAC-SHA256 of id.timestamp.body with the endpoint's secret, in base64; one for each live secret"],
        ])}
        ${event.data && html`<p class="tools"><${Copy} value=${asCurl(one, event.data, endpoint.data?.url ?? "URL")} label="Copy as curl" /><${Copy} value=${event.data} label="Copy the bytes" /></p>${jsonOf(parse(event.data), "body")}`}</section>`)}`;
}

/** @param {any} replay */
function progressOf(replay) {
  const count = Number(replay.count), done = Number(replay.replayed);
  return html`<progress max=${count || 1} value=${count ? done : 1} aria-label="Progress"></progress> ${done} of ${count}`;
}

/** @type {import("./table.js").Column<import("./api.js").Schemas["ReplayAnswer"]>[]} */
const REPLAY_COLUMNS = [
  { name: "Replay", size: "17.4rem", cell: (one) => idOf(one.id, to("replays", one.id)) },
  { name: "State", size: "7rem", cell: (one) => stateOf(one.state) },
  { name: "Endpoint", cell: (one) => html`<a href=${to("endpoints", one.endpoint_id)}>${one.endpoint_id}</a>` },
  { name: "Progress", cell: (one) => progressOf(one) },
  { name: "Created", kind: "time", size: "6rem", sort: "descending", cell: (one) => timeOf(one.created_at) },
];

/** @param {{route: import("./route.js").Route}} props */
export function Replays({ route }) {
  const list = useList(withQuery("/v1/replays", route.query));
  const endpoints = useNames("/v1/endpoints?limit=200");
  return html`<${Heading} title="Replays"><${ReplayButton} endpoint=${route.query.endpoint} /></${Heading}>
    <${Filters} route=${route} fields=${[["endpoint", "Endpoint", endpoints], ["state", "State", ["running", "done", "cancelled"]]]} />
    <${ListBody} list=${list} route=${route} caption="Replays, newest first" columns=${REPLAY_COLUMNS}
      empty=${html`<p>Nothing was sent again yet. The page of an endpoint has the button, and so has the command line:</p><pre tabindex="0">runbridge endpoints replay ENDPOINT --since 2h --dry-run</pre>`} />`;
}

/** @param {{route: import("./route.js").Route}} props */
export function ReplayPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const path = pathOf("replays", id);
  const fetched = useData(path);
  return html`<${Heading} title=${id} isId>${fetched.data?.state === "running" && html`<${Action} name="Cancel" done="Cancelled" run=${() => post(`${path}/cancel`)} confirm=${html`<p>What was sent already stays sent.</p>`} />`}</${Heading}>
    ${loaded(fetched, (/** @type {import("./api.js").Schemas["ReplayAnswer"]} */ one) => factsOf([
      ["State", stateOf(one.state)], ["Progress", progressOf(one)],
      ["Endpoint", html`<a href=${to("endpoints", one.endpoint_id)}>${one.endpoint_id}</a>`],
      ["Rate", `${one.rate} a second`],
      ["Time left, about", one.state === "running" ? durationText((Number(one.count) - Number(one.replayed)) / Number(one.rate)) : ""],
      ["Events since", timeOf(one.since, true)], ["Until", one.until && timeOf(one.until, true)],
      ["Types", one.types?.join(", ") ?? "all"], ["What became of them", one.status],
      ["Created", timeOf(one.created_at, true)], ["Finished", one.finished_at && timeOf(one.finished_at, true)],
      ["Deliveries", html`<a href=${to("deliveries", null, { endpoint: one.endpoint_id })}>of this endpoint</a>`],
    ]))}`;
}

export const TYPES = ["run.started", "run.progressed", "run.waiting", "run.resumed", "run.overdue", "run.finished",
  "connection.failing", "connection.recovered", "endpoint.disabled", "bridge.ping"];

/** @typedef {{endpoint?: string, since?: string, until?: string, status?: string, type?: string}} Chosen */

/** @param {Chosen & {close: () => void}} props */
export function ReplayDialog({ endpoint, since, until, status, type, close }) {
  const dayAgo = `${new Date(now() - 86400000).toISOString().slice(0, 19)}Z`;
  const [count, setCount] = useState(null);
  const counted = useRef(null);
  const send = async (/** @type {Record<string, string>} */ given, /** @type {boolean} */ isCount) => {
    const answer = await post(`${pathOf("endpoints", endpoint ?? given.endpoint)}/replay`, {
      since: given.since, status: given.status, ...(given.until && { until: given.until }), ...(given.type && { types: [given.type] }), ...(isCount && { dry_run: true }),
    });
    if (isCount) {
      counted.current?.focus();
      return setCount(answer.count);
    }
    close();
    toast(`${answer.count} events are sent again`);
    refetchAll();
    go(to("replays", answer.id));
  };
  return html`<${FormDialog} title=${endpoint ? `Replay to ${endpoint}` : "Replay"} does="Replay" counts send=${send} close=${close} onChange=${() => setCount(null)}>
    ${!endpoint && html`<${EndpointChoice} empty="choose one" isRequired />`}
    ${field("Since", "since", { required: true, defaultValue: since || dayAgo })}
    ${field("Until (optional)", "until", { defaultValue: until || "", placeholder: "now" })}
    ${choice("Type", "type", [["", "any"], ...TYPES], type)}
    ${choice("What became of them there", "status", ["all", "missed", "exhausted", "failed", "delivered", "pending"], status || "all")}
    <p tabindex="-1" ref=${counted}>${count === null ? "Count first: nothing is sent by that." : `${count} events match.`}</p></${FormDialog}>`;
}

/** @param {Chosen} chosen */
export const ReplayButton = (chosen) => html`<${Opener} name="Replay" draw=${(/** @type {() => void} */ close) => html`<${ReplayDialog} ...${chosen} close=${close} />`} />`;

/** The endpoints to choose from, disabled ones left out. @param {{empty: string, isRequired?: boolean}} props */
function EndpointChoice({ empty, isRequired = false }) {
  const endpoints = useData("/v1/endpoints?limit=200");
  const names = (endpoints.data?.data ?? []).filter((/** @type {any} */ one) => one.enabled).map((/** @type {any} */ one) => one.id);
  return choice("To", "endpoint", [["", empty], ...names], "", { required: isRequired });
}

/** Sending one event again. */
export const REPLAY = { name: "Replay", done: (/** @type {number} */ count) => `Sent again to ${count} ${count === 1 ? "endpoint" : "endpoints"}`,
  confirm: html`<div class="stack"><p>This sends the event again now. Receivers that have seen its id should ignore it.</p><${EndpointChoice} empty="every endpoint that had it or wants it" /></div>` };

/** Send one event again, to one endpoint or to all. @param {string} id @param {Record<string, string>} given */
export const replay = async (id, { endpoint }) => (await post(`${pathOf("events", id)}/replay`, endpoint ? { endpoint } : {})).deliveries.length;
