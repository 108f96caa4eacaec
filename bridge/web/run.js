import { html } from "./preact.js";
import { call, now, post } from "./api.js";
import { Action, useMay } from "./action.js";
import { CadencePlot, Timeline } from "./charts.js";
import { useData } from "./data.js";
import { deliveryColumns } from "./deliveries.js";
import { ReplayEvent } from "./replay_dialog.js";
import { to } from "./route.js";
import { progressText } from "./runs.js";
import { Table } from "./table.js";
import { durationText, Facts, Heading, Id, Json, Loaded, State, Time, visible } from "./ui.js";

const TONES = /** @type {Record<string, string>} */ ({ succeeded: "good", failed: "bad", expired: "bad", lost: "bad", waiting: "warn", partial: "warn", unknown: "warn", running: "busy" });

/** How long the run was in each status. @param {any} run */
function durations(run) {
  const changes = [{ at: run.registered_at, to: "queued" }, ...run.transitions];
  return changes.slice(0, -1).map((change, index) => ({ status: change.to, s: (Date.parse(changes[index + 1].at) - Date.parse(change.at)) / 1000 }));
}

/** @param {any} run */
function marks(run) {
  return [
    { at: run.registered_at, tone: "idle", label: "registered" },
    ...run.transitions.map((/** @type {any} */ one) => ({ at: one.at, tone: TONES[one.to] ?? "idle", label: one.to })),
    ...run.events.map((/** @type {any} */ one) => ({ at: one.timestamp, tone: "event", label: one.type })),
    ...(run.recent_polls.length ? run.recent_polls : [run.last_polled_at].filter(Boolean)).map((/** @type {string} */ at) => ({ at, tone: "poll", label: "poll" })),
    ...(run.next_poll_at ? [{ at: run.next_poll_at, tone: "poll", label: "next poll" }] : []),
  ];
}

/** @param {{run: any, deliveries: any[]}} props */
function History({ run, deliveries }) {
  const may = useMay();
  const rows = [
    { id: "registered", at: run.registered_at, what: "registered", more: "" },
    ...run.transitions.map((/** @type {any} */ one, /** @type {number} */ index) => ({ id: `t${index}`, at: one.at, what: html`<${State} is=${one.from} /> → <${State} is=${one.to} />`, more: visible(one.provider_status ?? "") })),
    ...run.events.map((/** @type {any} */ one) => ({ id: one.id, isEvent: true, at: one.timestamp, what: html`<a href=${to("events", one.id)}>${one.type}</a>`, more: deliveriesText(deliveries.filter((delivery) => delivery.event_id === one.id)) })),
  ].sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
  return html`<${Timeline} marks=${marks(run)} />
    <${Table} caption="What happened to this run" rows=${rows} columns=${[
      { name: "What", cell: (/** @type {any} */ row) => row.what },
      { name: "When", cell: (/** @type {any} */ row) => html`<${Time} at=${row.at} exact />` },
      { name: "Provider's word, or deliveries", cell: (/** @type {any} */ row) => html`<bdi>${row.more || "–"}</bdi>` },
    ...(may ? [{ name: "Action", cell: (/** @type {any} */ row) => (row.isEvent ? html`<${ReplayEvent} id=${row.id} kind="quiet" />` : "") }] : []),
    ]} />`;
}

/** Where the run stands on the plot of its workflow: its polls so far above the line, the planned ones beneath. @param {{run: any}} props */
function Place({ run }) {
  const query = new URLSearchParams({ workflow: run.workflow_id ?? "" });
  const learned = useData(`/v1/connections/${encodeURIComponent(run.connection)}?${query}`).data?.distribution;
  if (!learned) return null;
  const began = Date.parse(run.transitions.findLast((/** @type {any} */ one) => one.to === run.status)?.at ?? run.registered_at);
  const past = run.recent_polls.map((/** @type {string} */ at) => (Date.parse(at) - began) / 1000);
  return html`<section><h2>Cadence</h2><p>How long such runs take, the planned polls beneath the line, and the latest ${past.length} polls of this run above it, by its age of ${durationText(Math.max(0, (now() - began) / 1000))} as ${run.status}.</p>
    <${CadencePlot} distribution=${learned} past=${past} /><p><a href=${to("connections", run.connection, { workflow: run.workflow_id })}>The same numbers as a table</a></p></section>`;
}

/** @param {any[]} deliveries */
function deliveriesText(deliveries) {
  return deliveries.map((one) => `${one.endpoint_id} ${one.state}`).join(", ");
}

/** @param {{route: import("./route.js").Route}} props */
export default function RunPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const path = `/v1/runs/${encodeURIComponent(id)}`;
  const fetched = useData(path);
  const found = fetched.data;
  const deliveries = useData(found ? `/v1/deliveries?run=${encodeURIComponent(found.id)}&limit=200` : null);
  const open = found && !found.settled;
  return html`<${Heading} title=${found?.id ?? id} isId>
      ${open && html`<${Action} name="Poll now" done="It is polled now" run=${() => post(`${path}/poll`)} />
        <${Action} name="Cancel run" done="The provider was asked to cancel it" run=${() => post(`${path}/cancel`)} confirm=${html`<p>This asks the provider to cancel the run. It cannot be undone.</p>`} />`}
      ${open && html`<${Action} name="Stop watching" kind="danger" done="It is no longer watched" run=${() => call("DELETE", path)} leave=${to("runs")}
        confirm=${html`<p>The run goes on at the provider, and nothing more is sent about it. Its record here is removed.</p>`} />`}
    </${Heading}>
    <${Loaded} fetched=${fetched}>${(/** @type {import("./api.js").Schemas["RunInFull"]} */ run) => html`
      <${Facts} rows=${[
        ["Status", html`<${State} is=${run.status} />${run.overdue && html` <small class="warn">longer than usual</small>`}`],
        ["Provider's word", run.provider_status && html`<bdi>${visible(run.provider_status)}</bdi>`],
        ["Connection", html`<a href=${to("connections", run.connection, { workflow: run.workflow_id })}>${run.connection}</a> (${run.provider})`],
        ["Provider's id", html`<${Id} value=${run.provider_run_id} />`],
        ["At the provider", /^https?:/i.test(run.link ?? "") && html`<a href=${run.link} target="_blank" rel="noopener noreferrer">open</a>`],
        ["Workflow", run.workflow_id && html`<bdi>${visible(run.workflow_id)}</bdi>`],
        ["Progress", progressText(run)],
        ["Registered", html`<${Time} at=${run.registered_at} exact />`],
        ["Started", run.started_at && html`<${Time} at=${run.started_at} exact />`],
        ["Finished", run.finished_at && html`<${Time} at=${run.finished_at} exact />`],
        ["In each status", durations(run).map((one) => `${one.status} ${durationText(one.s)}`).join(", ")],
        ["Polls", html`${String(run.polls)}${run.last_polled_at && html`, the last <${Time} at=${run.last_polled_at} />`}`],
        ["Next poll", run.next_poll_at && html`<${Time} at=${run.next_poll_at} />${run.next_poll_reason && html`: ${visible(run.next_poll_reason)}`}`],
        ["Deadline", run.deadline_at && !run.settled && html`<${Time} at=${run.deadline_at} exact />`],
        ["Tags", run.tags.map(visible).join(", ")],
      ]} />
      ${run.last_error && html`<section class="error"><h2>The last ${String(run.last_error.count)} polls brought nothing readable</h2><p>${run.last_error.kind}: ${visible(run.last_error.message)} (<${Time} at=${run.last_error.at} />)</p></section>`}
      ${run.error && html`<section><h2>Error</h2><${Json} value=${[run.error.message, run.error.code && `code ${run.error.code}`, run.error.step && `step ${run.error.step}`].filter(Boolean).join("\n")} name="error" /></section>`}
      <section><h2>History</h2><${History} run=${run} deliveries=${deliveries.data?.data ?? []} /></section>
      ${!run.settled && html`<${Place} run=${run} />`}
      <section><h2>Deliveries</h2><${Loaded} fetched=${deliveries}>${(/** @type {any} */ { data }) => (data.length ? html`<${Table} caption="Deliveries of this run's events" columns=${deliveryColumns} rows=${data} />` : html`<p>No endpoint wanted its events yet.</p>`)}</${Loaded}></section>
      <section><h2>Output</h2>${run.output_truncated && html`<p>It could not be kept: it is too large, too deep or no JSON.</p>`}${run.output === null ? html`<p>None.</p>` : html`<${Json} value=${run.output} name="output" />`}</section>
      ${Object.keys(run.metadata).length > 0 && html`<section><h2>Metadata</h2><${Json} value=${run.metadata} name="metadata" /></section>`}`}</${Loaded}>`;
}
