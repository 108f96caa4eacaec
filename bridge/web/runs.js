import { html, useState } from "./preact.js";
import { post, withQuery } from "./api.js";
import { Dialog, toast, useMay } from "./action.js";
import { Bulk } from "./bulk.js";
import { useData, useList } from "./data.js";
import { refetchAll } from "./live.js";
import { go, to } from "./route.js";
import { Filters, ListBody, useSelection } from "./table.js";
import { ErrorBox, Heading, Id, State, Time, useOfflineReason, visible } from "./ui.js";

export const STATUSES = ["queued", "running", "waiting", "unknown", "succeeded", "partial", "failed", "cancelled", "expired", "lost"];
const FILTERS = ["q", "state", "status", "connection", "workflow_id", "tag", "since", "until"];

/** @param {any} run */
export function progressText(run) {
  return run.progress ? `${run.progress.completed} of ${run.progress.total}` : "";
}

const COLUMNS = [
  { name: "Run", cell: (/** @type {import("./api.js").Schemas["RunAnswer"]} */ run) => html`<${Id} value=${run.id} href=${to("runs", run.id)} />` },
  { name: "Status", cell: (/** @type {import("./api.js").Schemas["RunAnswer"]} */ run) => html`<${State} is=${run.status} />${run.overdue && html` <small class="warn">overdue</small>`}${run.last_error && html` <small class="bad" title=${visible(run.last_error.message)}>not readable</small>`}` },
  { name: "Provider's id", cell: (/** @type {import("./api.js").Schemas["RunAnswer"]} */ run) => html`<bdi class="id cut">${visible(run.provider_run_id)}</bdi>` },
  { name: "Connection", cell: (/** @type {import("./api.js").Schemas["RunAnswer"]} */ run) => html`<a href=${to("connections", run.connection)}>${run.connection}</a>` },
  { name: "Workflow", cell: (/** @type {import("./api.js").Schemas["RunAnswer"]} */ run) => html`<bdi class="cut">${visible(run.workflow_id ?? "–")}</bdi>${run.tags.length > 0 && html` <small><bdi class="cut">${visible(run.tags.join(", "))}</bdi></small>`}` },
  { name: "Progress", cell: (/** @type {import("./api.js").Schemas["RunAnswer"]} */ run) => progressText(run) || "–" },
  { name: "Registered", sort: /** @type {const} */ ("descending"), cell: (/** @type {import("./api.js").Schemas["RunAnswer"]} */ run) => html`<${Time} at=${run.registered_at} />` },
  { name: "Next poll", cell: (/** @type {import("./api.js").Schemas["RunAnswer"]} */ run) => html`<${Time} at=${run.next_poll_at} />` },
];

/** @param {{close: () => void}} props */
function Register({ close }) {
  const connections = useData("/v1/connections");
  const [error, setError] = useState(/** @type {any} */ (null));
  const register = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(/** @type {HTMLFormElement} */ (event.currentTarget)));
    const tags = String(given.tags).split(",").map((tag) => tag.trim()).filter(Boolean);
    const body = { connection: given.connection, provider_run_id: String(given.provider_run_id).trim(), ...(given.workflow_id ? { workflow_id: given.workflow_id } : {}), ...(tags.length ? { tags } : {}) };
    try {
      const run = await post("/v1/runs", body);
      close();
      toast(`Watching ${run.id}`);
      refetchAll();
      go(to("runs", run.id));
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<${Dialog} title="Register a run" close=${close}><form class="stack" onSubmit=${register}>
    <label><span>Connection</span><select name="connection">${(connections.data?.data ?? []).map((/** @type {any} */ one) => html`<option key=${one.name}>${one.name}</option>`)}</select></label>
    <label><span>Provider's run id</span><input name="provider_run_id" required autocomplete="off" /></label>
    <label><span>Workflow (optional)</span><input name="workflow_id" autocomplete="off" /></label>
    <label><span>Tags, separated by commas (optional)</span><input name="tags" autocomplete="off" /></label>
    ${error && html`<${ErrorBox} error=${error} />`}
    <p class="buttons"><button type="button" onClick=${close}>Back</button><button type="submit" class="primary">Register</button></p></form></${Dialog}>`;
}

/** @type {import("./bulk.js").Operation[]} */
const BULK = [
  { name: "Cancel", path: "/v1/runs/cancel", what: "open runs are", warning: "Their providers are asked to cancel them. This cannot be undone." },
  { name: "Stop watching", path: "/v1/runs/stop", what: "open runs are", kind: "danger", warning: "They go on at their providers, and nothing more is sent about them. Their records here are removed." },
];

/** @param {{route: import("./route.js").Route}} props */
export default function Runs({ route }) {
  const path = withQuery("/v1/runs", route.query);
  const list = useList(path);
  const selection = useSelection(path);
  const connections = useData("/v1/connections");
  const [isOpen, setOpen] = useState(false);
  const reason = useOfflineReason();
  const may = useMay("register");
  const names = (connections.data?.data ?? []).map((/** @type {any} */ one) => one.name);
  return html`<${Heading} title="Runs">${may && html`<button type="button" class="primary" disabled=${Boolean(reason)} title=${reason} onClick=${() => setOpen(true)}>Register</button>`}</${Heading}>
    <${Filters} route=${route} fields=${[
      { name: "q", label: "Beginning of an id" }, { name: "state", label: "State", options: ["open", "settled"] },
      { name: "status", label: "Status", options: STATUSES }, { name: "connection", label: "Connection", options: names },
      { name: "workflow_id", label: "Workflow" }, { name: "tag", label: "Tag" }, { name: "since", label: "Since" }, { name: "until", label: "Until" },
    ]} />
    <${Bulk} operations=${BULK} route=${route} filters=${FILTERS} selection=${selection} />
    <${ListBody} list=${list} route=${route} caption="Runs, newest first" columns=${COLUMNS} filters=${FILTERS} selection=${selection}
      empty=${html`<p>No run is watched yet. Register one here, through the API, or on the command line:</p><pre tabindex="0">runbridge runs add CONNECTION PROVIDER_RUN_ID</pre>`} />
    ${isOpen && html`<${Register} close=${() => setOpen(false)} />`}`;
}
