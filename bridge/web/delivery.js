import { html } from "./preact.js";
import { post } from "./api.js";
import { Action } from "./action.js";
import { useData } from "./data.js";
import { parse } from "./json.js";
import { to } from "./route.js";
import { Copy, durationText, Facts, Foreign, Heading, Json, Loaded, State, Time, visible } from "./ui.js";

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
      ["When", html`<${Time} at=${attempt.at} exact />`],
      ["Took", `${durationText(Number(attempt.duration_ms) / 1000)}${phases ? ` (${phases})` : ""}`],
      ["Address dialled", attempt.peer && html`<bdi>${attempt.peer}</bdi>`],
      ["Next try", attempt.next_attempt_at && html`<${Time} at=${attempt.next_attempt_at} />`],
    ]} />
    ${attempt.request_headers && html`<details><summary>Request headers, secrets masked</summary><${Facts} rows=${Object.entries(attempt.request_headers).map(([name, value]) => [name, html`<bdi>${visible(String(value))}</bdi>`])} /></details>`}
    ${attempt.response ? html`<h4>Answer${attempt.truncated ? ", its beginning" : ""}</h4><${Foreign} text=${attempt.response} name=${`answer ${attempt.number}`} />` : ""}</li>`;
}

/** @param {{route: import("./route.js").Route}} props */
export default function DeliveryPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const path = `/v1/deliveries/${encodeURIComponent(id)}`;
  const fetched = useData(path);
  const found = fetched.data;
  const event = useData(found ? `/v1/events/${encodeURIComponent(found.event_id)}` : null, asText);
  const endpoint = useData(found && found.state !== "discarded" ? `/v1/endpoints/${encodeURIComponent(found.endpoint_id)}` : null);
  return html`<${Heading} title=${id} isId>${found && found.state !== "discarded" && html`<${Action} name="Retry" done="It is sent again now" run=${() => post(`${path}/retry`)} />`}</${Heading}>
    <${Loaded} fetched=${fetched}>${(/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => html`
      <${Facts} rows=${[
        ["State", html`<${State} is=${one.state} />`],
        ["Event", html`<a href=${to("events", one.event_id)}>${one.event_type}</a>`],
        ["Endpoint", html`<a href=${to("endpoints", one.endpoint_id)}>${one.endpoint_id}</a>`],
        ["Run", one.run_id && html`<a class="id" href=${to("runs", one.run_id)}>${one.run_id}</a>`],
        ["Created", html`<${Time} at=${one.created_at} exact />`],
        ["Settled", one.settled_at && html`<${Time} at=${one.settled_at} exact />`],
        ["Next try", one.next_attempt_at && html`<${Time} at=${one.next_attempt_at} exact />`],
      ]} />
      <section><h2>Attempts</h2>${one.attempts.length ? html`<ol class="attempts">${[...one.attempts].reverse().map((/** @type {any} */ attempt) => html`<${Attempt} key=${attempt.number} attempt=${attempt} />`)}</ol>` : html`<p>None yet.</p>`}</section>
      <section><h2>Request</h2>
        <p>The same bytes at every attempt; only the time and with it the signature are new.</p>
        <${Facts} rows=${[
          ["POST", endpoint.data && html`<bdi>${visible(endpoint.data.url)}</bdi>`],
          ["content-type", "application/json"],
          ["webhook-id", one.event_id],
          ["webhook-timestamp", "Unix seconds of the attempt"],
          ["webhook-signature", "v1, then HMAC-SHA256 of id.timestamp.body with the endpoint's secret, in base64; one for each live secret"],
        ]} />
        ${event.data && html`<p class="tools"><${Copy} value=${asCurl(one, event.data, endpoint.data?.url ?? "URL")} label="Copy as curl" /><${Copy} value=${event.data} label="Copy the bytes" /></p><${Json} value=${parse(event.data)} name="body" />`}</section>`}</${Loaded}>`;
}
