/** Endpoints: their list, the dialog that adds or edits one, and the page of one. */
import { h, html, useMemo, useState } from "./preact.js";
import { call, pathOf, post, withQuery } from "./api.js";
import { Action, announce, Dialog, FormDialog, Opener, toast, useAttempt, useMay, useRowAction } from "./action.js";
import { Bars } from "./charts.js";
import { useData, useList } from "./data.js";
import { refetchAll } from "./live.js";
import { deliveryColumns, ReplayButton, ReplayDialog } from "./deliveries.js";
import { to } from "./route.js";
import { Filters, ListBody, Table, tableOf } from "./table.js";
import { choice, ErrorBox, factsOf, field, Heading, idOf, jsonOf, loaded, stateOf, timeOf, valuesOf, visible } from "./ui.js";

/** @param {any} rate */
const percent = (rate) => (rate === null || rate === undefined ? "–" : `${Math.floor(Number(rate) * 1000) / 10} %`);

/** @type {import("./table.js").Column<import("./api.js").Schemas["EndpointAnswer"]>[]} */
const COLUMNS = [
  { name: "Endpoint", size: "minmax(8rem, 1.4fr)", cell: (one) => idOf(one.id, to("endpoints", one.id)) },
  { name: "State", size: "7rem", cell: (one) => stateOf(one.enabled ? (one.failing_since ? "failing" : "enabled") : "disabled") },
  { name: "Address", size: "minmax(6rem, 2fr)", cell: (one) => visible(one.url) },
  { name: "Accepted, 24 h", size: "7.2rem", kind: "number", cell: (one) => percent(one.stats.day.success_rate) },
  { name: "Pending", size: "4.8rem", kind: "number", cell: (one) => String(one.stats.pending) },
  { name: "Oldest due", kind: "time", size: "5.6rem", cell: (one) => timeOf(one.stats.oldest_due_at) },
  { name: "Last answer", kind: "time", size: "minmax(7rem, 1.3fr)", cell: (one) => (one.stats.last_answer ? html`${one.stats.last_answer.status ?? ""} ${one.stats.last_answer.outcome}, ${timeOf(one.stats.last_answer.at)}` : "–") },
  { name: "Failing since", kind: "time", size: "6.6rem", cell: (one) => timeOf(one.failing_since) },
  { name: "Source", size: "5rem", cell: (one) => `${one.source}${one.ordered ? ", ordered" : ""}` },
];

/** Why an endpoint cannot be changed here; empty if it can. @param {any} one */
const fixedReason = (one) => (one?.source === "config" ? "It stands in the configuration file; change it there." : "");

const PING = { name: "Ping", done: "A test event is on its way" };
const DISABLE = { name: "Disable", done: "Disabled: what is pending waits, and new events are not queued" };
const ENABLE = { name: "Enable", done: "Enabled; its page sends what it missed" };

/** Have the API do this to an endpoint. @param {string} what */
const having = (what) => (/** @type {string} */ id) => post(`${pathOf("endpoints", id)}/${what}`);

/** A secret that is shown once. @param {{secret: string, close: () => void}} props */
function SecretDialog({ secret, close }) {
  return html`<${Dialog} title="Signing secret" close=${close}><p>It is shown only now. Give it to the receiver, which verifies signatures with it.</p>
    <p>${idOf(secret)}</p><p class="buttons"><button type="button" class="primary" onClick=${close}>I have it</button></p></${Dialog}>`;
}

/** @param {{route: import("./route.js").Route}} props */
export default function Endpoints({ route }) {
  const list = useList(withQuery("/v1/endpoints", route.query));
  const ping = useRowAction(PING, having("ping"));
  const disable = useRowAction(DISABLE, having("disable"));
  const enable = useRowAction(ENABLE, having("enable"));
  const columns = useMemo(() => (ping.button ? COLUMNS.toSpliced(2, 0, { name: "Actions", size: "8.6rem", cell: (one) =>
    h("span", { class: "row" }, ping.button?.(one.id, one.enabled ? "" : "It is off"), one.enabled ? disable.button?.(one.id, fixedReason(one)) : enable.button?.(one.id)) }) : COLUMNS), [ping.button]);
  return html`<${Heading} title="Endpoints"><${Opener} name="Add" kind="primary" draw=${(/** @type {() => void} */ close) => html`<${EndpointForm} close=${close} />`} /></${Heading}>
    <${Filters} route=${route} fields=${[["one_run", "Webhooks of single runs", ["true"]]]} />
    <${ListBody} list=${list} route=${route} caption="Endpoints" columns=${columns}
      empty=${html`<p>There is no endpoint yet. Add one here, in the configuration file, or on the command line:</p><pre tabindex="0">runbridge endpoints add https://example.com/hooks</pre>`} />${ping.dialog}${disable.dialog}${enable.dialog}`;
}

/** The settings in a form; what is empty is the default. @param {Record<string, string>} given @returns {Record<string, any>} */
function settingsOf({ url, events, filter, description, ordered, payload, format, rate_limit: rate }) {
  const types = events.split(",").map((type) => type.trim()).filter(Boolean);
  return {
    url, events: types.length ? types : null, filter: filter || null, description: description || null, ordered: ordered !== undefined,
    payload, format, rate_limit: rate === "" ? null : Number.isFinite(Number(rate)) ? Number(rate) : rate,
  };
}

/** The form of an endpoint, or of a new one, whose secret it shows in the end. @param {{endpoint?: any, close: () => void}} props */
function EndpointForm({ endpoint, close }) {
  const [secret, setSecret] = useState("");
  const save = async (/** @type {Record<string, string>} */ given) => {
    const settings = Object.entries(settingsOf(given));
    if (endpoint) {
      await call("PATCH", pathOf("endpoints", endpoint.id), Object.fromEntries(settings.filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(endpoint[name] ?? null))));
      toast("Changed");
      close();
    } else {
      const made = await post("/v1/endpoints", Object.fromEntries(settings.filter(([, value]) => value !== null)));
      toast(`Added ${made.id}`);
      setSecret(made.secret);
    }
    refetchAll();
  };
  if (secret) return html`<${SecretDialog} secret=${secret} close=${close} />`;
  const was = endpoint ?? {};
  return html`<${FormDialog} title=${endpoint ? `Edit ${endpoint.id}` : "Add an endpoint"} does=${endpoint ? "Save" : "Add"} send=${save} close=${close}>
    ${field("Address", "url", { required: true, placeholder: "https://", defaultValue: was.url })}
    ${field("Event types, separated by commas (all but run.progressed if empty)", "events", { defaultValue: was.events?.join(", ") })}
    ${field("Filter, a JMESPath expression (optional)", "filter", { defaultValue: was.filter })}
    ${field("Description (optional)", "description", { defaultValue: was.description })}
    ${choice("Payload", "payload", ["full", "thin"], was.payload)}${choice("Format", "format", ["standard", "cloudevents"], was.format)}
    ${field("Deliveries a second, at most (optional)", "rate_limit", { inputmode: "decimal", defaultValue: was.rate_limit })}
    <label class="check"><input type="checkbox" name="ordered" defaultChecked=${Boolean(was.ordered)} /><span>One event of a run after the other</span></label></${FormDialog}>`;
}

/** @param {{stats: any}} props */
function Stats({ stats }) {
  const rows = [["Last hour", stats.hour], ["Last 24 hours", stats.day]].map(([name, window]) => ({ id: name, name, ...window }));
  const ms = (/** @type {any} */ value) => (value === null ? "–" : `${value} ms`);
  return html`${tableOf("Attempts", rows, [
    ["Attempts of", (row) => row.name], ["Accepted", (row) => String(row.delivered), "number"], ["Failed", (row) => String(row.failed), "number"],
    ["Rate", (row) => percent(row.success_rate), "number"], ["Median", (row) => ms(row.p50_ms), "number"], ["95 %", (row) => ms(row.p95_ms), "number"],
  ])}${stats.sampled_since && html`<p>Only attempts since ${timeOf(stats.sampled_since)} are counted.</p>`}`;
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
  const [result, setResult] = useState(null);
  const { error, attempt } = useAttempt();
  const test = (/** @type {Event} */ event) => {
    event.preventDefault();
    const given = valuesOf(event);
    attempt(async () => {
      const found = await post("/v1/endpoints/test-filter", given);
      setResult(found);
      announce(`${found.matched} of ${found.data.length} events match`);
    });
  };
  return html`<form class="filters" onSubmit=${test}><label class="wide"><span>A filter, tried on the newest events</span><input name="filter" required defaultValue=${filter ?? "data.run.status == 'failed'"} /></label><button type="submit">Try</button></form>
    ${error && html`<${ErrorBox} error=${error} />`}
    ${result && html`<p>${String(result.matched)} of ${result.data.length} events match; it fails on ${String(result.failed)}.</p>
      ${result.data.length > 0 && tableOf("The newest events", result.data, [
        ["Event", (row) => html`<a class="id" href=${to("events", row.event_id)}>${row.event_id}</a>`], ["Type", (row) => row.type],
        ["Matches", (row) => (row.error ? visible(row.error) : row.matches ? "yes" : "no")], ["When", (row) => timeOf(row.created_at)],
      ], (row) => row.event_id)}`}`;
}

/** @param {{route: import("./route.js").Route}} props */
export function EndpointPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const path = pathOf("endpoints", id);
  const fetched = useData(path);
  const deliveries = useData(`/v1/deliveries?endpoint=${encodeURIComponent(id)}&limit=20`);
  const may = useMay();
  const [secret, setSecret] = useState("");
  const [missedSince, setMissedSince] = useState("");
  const found = fetched.data;
  const fixed = fixedReason(found);
  const enable = async () => {
    const since = found.failing_since ?? found.stats.last_answer?.at ?? found.created_at;
    await post(`${path}/enable`);
    setMissedSince(since ?? "");
  };
  const rotate = async () => setSecret((await post(`${path}/rotate-secret`)).secret ?? "");
  return html`<${Heading} title=${id} isId>${found && html`
      <${Action} ...${PING} run=${() => post(`${path}/ping`)} />
      <${ReplayButton} endpoint=${id} />
      <${Action} ...${found.enabled ? { ...DISABLE, isOff: fixed, run: () => post(`${path}/disable`) } : { name: "Enable", done: "Enabled", run: enable }} />
      <${Opener} name="Edit" isOff=${fixed} draw=${(/** @type {() => void} */ close) => html`<${EndpointForm} endpoint=${found} close=${close} />`} />
      <${Action} name="Rotate secret" isOff=${fixed} done="Both secrets sign for one day" run=${rotate} confirm=${html`<p>A new secret is made and shown once. The old one goes on signing for one day.</p>`} />
      <${Action} name="Delete" kind="danger" isOff=${fixed} done="Deleted" run=${() => call("DELETE", path)} leave=${to("endpoints")} confirm=${html`<p>Its pending deliveries are discarded. This cannot be undone.</p>`} />`}</${Heading}>
    ${loaded(fetched, (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => html`
      ${!one.enabled && html`<p class="verdict bad"><span aria-hidden="true">!</span><span>Disabled${one.disabled_reason ? `: ${visible(one.disabled_reason)}` : ""}</span></p>`}
      ${factsOf([
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
      ])}
      <section><h2>Attempts</h2><${AttemptBars} deliveries=${deliveries.data?.data ?? []} /><${Stats} stats=${one.stats} /></section>
      <section><h2>Last deliveries</h2>${loaded(deliveries, ({ data }) => (data.length ? html`<${Table} caption="Last deliveries" columns=${deliveryColumns} rows=${data} /><p><a href=${to("deliveries", null, { endpoint: id })}>Show all</a></p>` : html`<p>None yet.</p>`))}</section>
      ${may && html`<section><h2>Filter</h2><${FilterTester} filter=${one.filter} /></section>`}
      ${Object.keys(one.headers).length > 0 && html`<section><h2>Headers, values masked</h2>${jsonOf(one.headers, "headers")}</section>`}`)}
    ${secret && html`<${SecretDialog} secret=${secret} close=${() => setSecret("")} />`}
    ${missedSince && html`<${ReplayDialog} endpoint=${id} since=${missedSince} status="missed" close=${() => setMissedSince("")} />`}`;
}
