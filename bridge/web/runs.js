import { h, html, useMemo, useState } from "./preact.js";
import { call, now, pathOf, post, withQuery } from "./api.js";
import { Action, Bulk, FormDialog, Opener, toast, useRowAction } from "./action.js";
import { CadencePlot, Timeline } from "./charts.js";
import { useData, useList, useNames } from "./data.js";
import { refetchAll } from "./live.js";
import { deliveryColumns, REPLAY, replay } from "./deliveries.js";
import { go, to } from "./route.js";
import { Filters, ListBody, Table, tableOf, useSelection } from "./table.js";
import { choice, durationText, factsOf, field, Heading, idOf, jsonOf, loaded, stateOf, timeOf, visible, worstOf } from "./ui.js";

export const STATUSES = ["queued", "running", "waiting", "unknown", "succeeded", "partial", "failed", "cancelled", "expired", "lost"];

/** @param {any} run */
export function progressText(run) {
  return run.progress ? `${run.progress.completed} of ${run.progress.total}` : "";
}

/** @type {import("./table.js").Column<import("./api.js").Schemas["RunRow"]>[]} */
const COLUMNS = [
  { name: "Run", size: "17.5rem", cell: (run) => idOf(run.id, to("runs", run.id)) },
  { name: "Status", size: "7.6rem", kind: "wraps", cell: (run) => [stateOf(run.status), run.overdue && h("small", { class: "warn" }, " overdue"), run.last_error && h("small", { class: "bad", title: visible(run.last_error.message) }, " not readable")] },
  { name: "Provider's id", size: "minmax(6.2rem, 1fr)", kind: "id", cell: (run) => visible(run.provider_run_id) },
  { name: "Connection", size: "minmax(5.9rem, .7fr)", cell: (run) => h("a", { href: to("connections", run.connection) }, run.connection) },
  { name: "Workflow", size: "minmax(4.6rem, .9fr)", cell: (run) => [visible(run.workflow_id ?? "–"), run.tags.length > 0 && h("small", null, ` ${visible(run.tags.join(", "))}`)] },
  { name: "Progress", size: "5.2rem", cell: (run) => progressText(run) || "–" },
  { name: "Deliveries", size: "6.9rem", cell: (run) => worstOf(run.deliveries, to("deliveries", null, { run: run.id })) },
  { name: "Registered", size: "6rem", sort: "descending", kind: "time", cell: (run) => timeOf(run.registered_at) },
];

/** @param {{close: () => void}} props */
function Register({ close }) {
  const connections = useNames("/v1/connections", "name");
  const register = async (/** @type {Record<string, string>} */ given) => {
    const tags = given.tags.split(",").map((tag) => tag.trim()).filter(Boolean);
    const run = await post("/v1/runs", { ...given, workflow_id: given.workflow_id || null, tags });
    close();
    toast(`Watching ${run.id}`);
    refetchAll();
    go(to("runs", run.id));
  };
  return html`<${FormDialog} title="Register a run" does="Register" send=${register} close=${close}>
    ${choice("Connection", "connection", connections)}
    ${field("Provider's run id", "provider_run_id", { required: true })}
    ${field("Workflow (optional)", "workflow_id")}
    ${field("Tags, separated by commas (optional)", "tags")}</${FormDialog}>`;
}

/** @type {import("./action.js").Operation[]} */
const BULK = [
  { name: "Cancel", path: "/v1/runs/cancel", what: "open runs are", warning: "Their providers are asked to cancel them. This cannot be undone." },
  { name: "Stop watching", path: "/v1/runs/stop", what: "open runs are", kind: "danger", warning: "They go on at their providers, and nothing more is sent about them. Their records here are removed." },
];

const POLL = { name: "Poll now", done: "It is polled now" };

/** @param {{route: import("./route.js").Route}} props */
export default function Runs({ route }) {
  const path = withQuery("/v1/runs", { ...route.query, deliveries: true });
  const list = useList(path);
  const selection = useSelection(path);
  const connections = useNames("/v1/connections", "name");
  const { button, dialog } = useRowAction(POLL, (id) => post(`${pathOf("runs", id)}/poll`));
  const columns = useMemo(() => [...COLUMNS, { name: "Next poll", kind: "time", size: button ? "9rem" : "6rem", cell: (/** @type {any} */ run) => [timeOf(run.next_poll_at), button && !run.settled && button(run.id)] }], [button]);
  return html`<${Heading} title="Runs"><${Opener} name="Register" kind="primary" scope="register" draw=${(/** @type {() => void} */ close) => html`<${Register} close=${close} />`} /></${Heading}>
    <${Filters} route=${route} fields=${[
      ["q", "Beginning of an id"], ["state", "State", ["open", "settled"]], ["status", "Status", STATUSES], ["connection", "Connection", connections],
      ["workflow_id", "Workflow"], ["tag", "Tag"], ["since", "Since"], ["until", "Until"],
    ]} />
    <${Bulk} operations=${BULK} route=${route} selection=${selection} />
    <${ListBody} list=${list} route=${route} caption="Runs, newest first" columns=${columns} selection=${selection}
      empty=${html`<p>No run is watched yet. Register one here, through the API, or on the command line:</p><pre tabindex="0">runbridge runs add CONNECTION PROVIDER_RUN_ID</pre>`} />
    ${dialog}`;
}

const TONES = /** @type {Record<string, string>} */ ({ succeeded: "good", failed: "bad", expired: "bad", lost: "bad", waiting: "warn", partial: "warn", unknown: "warn", running: "busy" });

/** How long the run was in each status. @param {any} run */
function durations(run) {
  const changes = [{ at: run.registered_at, to: "queued" }, ...run.transitions];
  return changes.slice(0, -1).map((change, index) => ({ status: change.to, s: (Date.parse(changes[index + 1].at) - Date.parse(change.at)) / 1000 }));
}

/** @param {any} run @param {any[]} deliveries */
function marks(run, deliveries) {
  return [
    ...deliveries.flatMap((one) => one.attempts.map((/** @type {any} */ attempt) => ({ at: attempt.at, tone: attempt.outcome === "delivered" ? "good" : "bad", isAttempt: true, label: `attempt ${attempt.number} to ${one.endpoint_id}: ${attempt.outcome}` }))),
    { at: run.registered_at, tone: "idle", label: "registered" },
    ...run.transitions.map((/** @type {any} */ one) => ({ at: one.at, tone: TONES[one.to] ?? "idle", label: one.to })),
    ...run.events.map((/** @type {any} */ one) => ({ at: one.timestamp, tone: "event", label: one.type })),
    ...(run.recent_polls.length ? run.recent_polls : [run.last_polled_at].filter(Boolean)).map((/** @type {string} */ at) => ({ at, tone: "poll", label: "poll" })),
    ...(run.next_poll_at ? [{ at: run.next_poll_at, tone: "poll", label: "next poll" }] : []),
  ];
}

/** @param {{run: any, deliveries: any[]}} props */
function History({ run, deliveries }) {
  const { button, dialog } = useRowAction(REPLAY, replay);
  const rows = [
    { id: "registered", at: run.registered_at, what: "registered", more: "" },
    ...run.transitions.map((/** @type {any} */ one, /** @type {number} */ index) => ({ id: `t${index}`, at: one.at, what: html`${stateOf(one.from)} → ${stateOf(one.to)}`, more: visible(one.provider_status ?? "") })),
    ...run.events.map((/** @type {any} */ one) => ({ id: one.id, isEvent: true, at: one.timestamp, what: html`<a href=${to("events", one.id)}>${one.type}</a>`, more: deliveriesText(deliveries.filter((delivery) => delivery.event_id === one.id)) })),
  ].sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
  return html`<${Timeline} marks=${marks(run, deliveries)} />
    ${tableOf("What happened to this run", rows, [["What", (row) => row.what], ["When", (row) => timeOf(row.at, true)],
      ["Provider's word, or deliveries", (row) => html`<bdi>${row.more || "–"}</bdi>`],
      ...(button ? [/** @type {[string, (row: any) => any]} */ (["Action", (row) => row.isEvent && button(row.id)])] : []),
    ])}${dialog}`;
}

/** Where the run stands on the plot of its workflow: its polls so far above the line, the planned ones beneath. @param {{run: any}} props */
function Place({ run }) {
  const query = new URLSearchParams({ workflow: run.workflow_id ?? "" });
  const learned = useData(`${pathOf("connections", run.connection)}?${query}`).data?.distribution;
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
export function RunPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const path = pathOf("runs", id);
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
    ${loaded(fetched, (/** @type {import("./api.js").Schemas["RunInFull"]} */ run) => html`
      ${factsOf([
        ["Status", html`${stateOf(run.status)}${run.overdue && html` <small class="warn">longer than usual</small>`}`],
        ["Provider's word", run.provider_status && html`<bdi>${visible(run.provider_status)}</bdi>`],
        ["Connection", html`<a href=${to("connections", run.connection, { workflow: run.workflow_id })}>${run.connection}</a> (${run.provider})`],
        ["Provider's id", idOf(run.provider_run_id)],
        ["At the provider", /^https?:/i.test(run.link ?? "") && html`<a href=${run.link} target="_blank" rel="noopener noreferrer">open</a>`],
        ["Workflow", run.workflow_id && html`<bdi>${visible(run.workflow_id)}</bdi>`],
        ["Progress", progressText(run)],
        ["Registered", timeOf(run.registered_at, true)],
        ["Started", run.started_at && timeOf(run.started_at, true)],
        ["Finished", run.finished_at && timeOf(run.finished_at, true)],
        ["In each status", durations(run).map((one) => `${one.status} ${durationText(one.s)}`).join(", ")],
        ["Polls", html`${String(run.polls)}${run.last_polled_at && html`, the last ${timeOf(run.last_polled_at)}`}`],
        ["Next poll", run.next_poll_at && html`${timeOf(run.next_poll_at)}${run.next_poll_reason && html`: ${visible(run.next_poll_reason)}`}`],
        ["Deadline", run.deadline_at && !run.settled && timeOf(run.deadline_at, true)],
        ["Tags", run.tags.map(visible).join(", ")],
      ])}
      ${run.last_error && html`<section class="error"><h2>The last ${String(run.last_error.count)} polls brought nothing readable</h2><p>${run.last_error.kind}: ${visible(run.last_error.message)} (${timeOf(run.last_error.at)})</p></section>`}
      ${run.error && html`<section><h2>Error</h2>${jsonOf([run.error.message, run.error.code && `code ${run.error.code}`, run.error.step && `step ${run.error.step}`].filter(Boolean).join("\n"), "error")}</section>`}
      <section><h2>History</h2><${History} run=${run} deliveries=${deliveries.data?.data ?? []} /></section>
      ${!run.settled && html`<${Place} run=${run} />`}
      <section><h2>Deliveries</h2>${loaded(deliveries, ({ data }) => (data.length ? html`<${Table} caption="Deliveries of this run's events" columns=${deliveryColumns} rows=${data} />` : html`<p>No endpoint wanted its events yet.</p>`))}</section>
      <section><h2>Output</h2>${run.output_truncated && html`<p>It could not be kept: it is too large, too deep or no JSON.</p>`}${run.output === null ? html`<p>None.</p>` : jsonOf(run.output, "output")}</section>
      ${Object.keys(run.metadata).length > 0 && html`<section><h2>Metadata</h2>${jsonOf(run.metadata, "metadata")}</section>`}`)}`;
}
