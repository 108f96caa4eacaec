import { html, useState } from "./preact.js";
import { call, post } from "./api.js";
import { Action, announce, useMay } from "./action.js";
import { Bars } from "./charts.js";
import { useData } from "./data.js";
import { deliveryColumns } from "./deliveries.js";
import { EndpointForm, fixedReason, percent, SecretDialog } from "./endpoints.js";
import { ReplayButton, ReplayDialog } from "./replays.js";
import { to } from "./route.js";
import { Table } from "./table.js";
import { ErrorBox, Facts, Heading, idOf, Json, Loaded, stateOf, timeOf, useOfflineReason, visible } from "./ui.js";

/** @param {{stats: any}} props */
function Stats({ stats }) {
  const rows = [["Last hour", stats.hour], ["Last 24 hours", stats.day]].map(([name, window]) => ({ id: name, name, ...window }));
  const ms = (/** @type {any} */ value) => (value === null ? "–" : `${value} ms`);
  return html`<${Table} caption="Attempts" rows=${rows} columns=${[
    { name: "Attempts of", cell: (/** @type {any} */ row) => row.name },
    { name: "Accepted", kind: "number", cell: (/** @type {any} */ row) => String(row.delivered) },
    { name: "Failed", kind: "number", cell: (/** @type {any} */ row) => String(row.failed) },
    { name: "Rate", kind: "number", cell: (/** @type {any} */ row) => percent(row.success_rate) },
    { name: "Median", kind: "number", cell: (/** @type {any} */ row) => ms(row.p50_ms) },
    { name: "95 %", kind: "number", cell: (/** @type {any} */ row) => ms(row.p95_ms) },
  ]} />${stats.sampled_since && html`<p>Only attempts since ${timeOf(stats.sampled_since)} are counted.</p>`}`;
}

/** The latest attempts by outcome, as tall as they took; the table of deliveries has the same. @param {{deliveries: any[]}} props */
function AttemptBars({ deliveries }) {
  const attempts = deliveries.flatMap((one) => one.attempts).sort((a, b) => Date.parse(a.at) - Date.parse(b.at)).slice(-60);
  if (!attempts.length) return null;
  const bars = attempts.map((one) => ({ at: one.at, values: one.outcome === "delivered" ? [Math.max(1, Number(one.duration_ms)), 0] : [0, Math.max(1, Number(one.duration_ms))] }));
  const top = Math.max(...attempts.map((one) => Number(one.duration_ms)));
  return html`<figure><figcaption>The last ${attempts.length} attempts, the longest took ${top} ms; failed ones in red. Each stands with its delivery below.</figcaption>
    <${Bars} name="Duration of the latest attempts, accepted and failed" tones=${["good", "bad"]} bars=${bars} /></figure>`;
}

/** @param {{filter: string | null}} props */
function FilterTester({ filter }) {
  const [result, setResult] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const test = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const given = new FormData(/** @type {HTMLFormElement} */ (event.currentTarget)).get("filter");
    setError(null);
    try {
      const found = await post("/v1/endpoints/test-filter", { filter: given });
      setResult(found);
      announce(`${found.matched} of ${found.data.length} events match`);
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<form class="filters" onSubmit=${test}><label class="wide"><span>A filter, tried on the newest events</span><input name="filter" required defaultValue=${filter ?? "data.run.status == 'failed'"} /></label><button type="submit">Try</button></form>
    ${error && html`<${ErrorBox} error=${error} />`}
    ${result && html`<p>${String(result.matched)} of ${result.data.length} events match; it fails on ${String(result.failed)}.</p>
      ${result.data.length > 0 && html`<${Table} caption="The newest events" keyOf=${(/** @type {any} */ row) => row.event_id} rows=${result.data} columns=${[
        { name: "Event", cell: (/** @type {any} */ row) => html`<a class="id" href=${to("events", row.event_id)}>${row.event_id}</a>` },
        { name: "Type", cell: (/** @type {any} */ row) => row.type },
        { name: "Matches", cell: (/** @type {any} */ row) => (row.error ? visible(row.error) : row.matches ? "yes" : "no") },
        { name: "When", cell: (/** @type {any} */ row) => timeOf(row.created_at) },
      ]} />`}`}`;
}

/** @param {{route: import("./route.js").Route}} props */
export default function EndpointPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const path = `/v1/endpoints/${encodeURIComponent(id)}`;
  const fetched = useData(path);
  const deliveries = useData(`/v1/deliveries?endpoint=${encodeURIComponent(id)}&limit=20`);
  const may = useMay();
  const [secret, setSecret] = useState("");
  const [isEdited, setEdited] = useState(false);
  const [missedSince, setMissedSince] = useState("");
  const found = fetched.data;
  const fixed = fixedReason(found);
  const offline = useOfflineReason();
  const enable = async () => {
    const since = found.failing_since ?? found.stats.last_answer?.at ?? found.created_at;
    await post(`${path}/enable`);
    setMissedSince(since ?? "");
  };
  const rotate = async () => setSecret((await post(`${path}/rotate-secret`)).secret ?? "");
  return html`<${Heading} title=${id} isId>${found && html`
      <${Action} name="Ping" done="A test event is on its way" run=${() => post(`${path}/ping`)} />
      <${ReplayButton} endpoint=${id} />
      ${found.enabled ? html`<${Action} key="off" name="Disable" isOff=${fixed} done="Disabled: what is pending waits, and new events are not queued" run=${() => post(`${path}/disable`)} />`
        : html`<${Action} key="on" name="Enable" done="Enabled" run=${enable} />`}
      ${may && html`<button type="button" disabled=${Boolean(fixed || offline)} title=${offline || fixed} onClick=${() => setEdited(true)}>Edit</button>`}
      <${Action} name="Rotate secret" isOff=${fixed} done="Both secrets sign for one day" run=${rotate} confirm=${html`<p>A new secret is made and shown once. The old one goes on signing for one day.</p>`} />
      <${Action} name="Delete" kind="danger" isOff=${fixed} done="Deleted" run=${() => call("DELETE", path)} leave=${to("endpoints")} confirm=${html`<p>Its pending deliveries are discarded. This cannot be undone.</p>`} />`}</${Heading}>
    <${Loaded} fetched=${fetched}>${(/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => html`
      ${!one.enabled && html`<p class="verdict bad"><span aria-hidden="true">!</span><span>Disabled${one.disabled_reason ? `: ${visible(one.disabled_reason)}` : ""}</span></p>`}
      <${Facts} rows=${[
        ["State", stateOf(one.enabled ? "enabled" : "disabled")],
        ["Address", idOf(visible(one.url))],
        ["Description", one.description && html`<bdi>${visible(one.description)}</bdi>`],
        ["Events", one.events?.join(", ") ?? "all but run.progressed"],
        ["Filter", one.filter && html`<code>${one.filter}</code>`],
        ["Filter failed on", Number(one.filter_errors) ? `${one.filter_errors} events, which it did not get` : ""],
        ["Added", timeOf(one.created_at, true)],
        ["Source", one.source === "config" ? "configuration file" : "API"],
        ["One run", one.run_id && html`<a class="id" href=${to("runs", one.run_id)}>${one.run_id}</a>`],
        ["Order", one.ordered ? "one event of a run after the other" : "as fast as it goes"],
        ["Payload", `${one.payload}, ${one.format}, signed ${[one.signature].flat().join(" and ")}`],
        ["At most", one.rate_limit && String(one.rate_limit)],
        ["Public keys", one.public_keys.length ? one.public_keys.map((/** @type {string} */ key) => idOf(key)) : ""],
        ["Headers", Object.keys(one.headers).join(", ")],
        ["Old secret signs until", one.old_secret_until && timeOf(one.old_secret_until, true)],
        ["Failing since", one.failing_since && timeOf(one.failing_since, true)],
        ["Paused until", one.paused_until && timeOf(one.paused_until, true)],
        ["Pending", html`${String(one.stats.pending)}${one.stats.oldest_due_at && html`, the longest due since ${timeOf(one.stats.oldest_due_at)}`}`],
        ["Last answer", one.stats.last_answer && html`${one.stats.last_answer.status ?? ""} ${one.stats.last_answer.outcome}, ${timeOf(one.stats.last_answer.at)}${one.stats.last_answer.detail && html`: ${visible(one.stats.last_answer.detail)}`}`],
      ]} />
      <section><h2>Attempts</h2><${AttemptBars} deliveries=${deliveries.data?.data ?? []} /><${Stats} stats=${one.stats} /></section>
      <section><h2>Last deliveries</h2><${Loaded} fetched=${deliveries}>${(/** @type {any} */ { data }) => (data.length ? html`<${Table} caption="Last deliveries" columns=${deliveryColumns} rows=${data} /><p><a href=${to("deliveries", null, { endpoint: id })}>Show all</a></p>` : html`<p>None yet.</p>`)}</${Loaded}></section>
      ${may && html`<section><h2>Filter</h2><${FilterTester} filter=${one.filter} /></section>`}
      ${Object.keys(one.headers).length > 0 && html`<section><h2>Headers, values masked</h2><${Json} value=${one.headers} name="headers" /></section>`}`}</${Loaded}>
    ${isEdited && found && html`<${EndpointForm} endpoint=${found} close=${() => setEdited(false)} />`}
    ${secret && html`<${SecretDialog} secret=${secret} close=${() => setSecret("")} />`}
    ${missedSince && html`<${ReplayDialog} endpoint=${id} since=${missedSince} status="missed" close=${() => setMissedSince("")} />`}`;
}
