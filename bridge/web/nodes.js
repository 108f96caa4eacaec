import { html } from "./preact.js";
import { call } from "./api.js";
import { Action, useMay } from "./action.js";
import { useData } from "./data.js";
import { to } from "./route.js";
import { Table } from "./table.js";
import { Facts, Heading, idOf, Loaded, stateOf, timeOf, visible } from "./ui.js";

/** What each result of a check is shown as. @type {Record<string, string>} */
const RESULTS = { ok: "ok", remark: "attention", wrong: "failing" };

function Sessions() {
  const sessions = useData("/v1/sessions");
  return html`<section><h2>Open sessions</h2><${Loaded} fetched=${sessions}>${(/** @type {any} */ { data }) => html`<${Table} caption="Sessions of the dashboard" rows=${data} columns=${[
      { name: "Session", cell: (/** @type {any} */ one) => idOf(one.id) },
      { name: "Token", cell: (/** @type {any} */ one) => one.token },
      { name: "Signed in", cell: (/** @type {any} */ one) => timeOf(one.created_at) },
      { name: "Last used", cell: (/** @type {any} */ one) => timeOf(one.last_used_at) },
      { name: "Ends", cell: (/** @type {any} */ one) => timeOf(one.expires_at) },
      { name: "Action", cell: (/** @type {any} */ one) => html`<${Action} name="End" kind="quiet" done="The session is over" run=${() => call("DELETE", `/v1/sessions/${encodeURIComponent(one.id)}`)} confirm=${html`<p>The browser that opened it has to sign in again.</p>`} />` },
    ]} />`}</${Loaded}></section>`;
}

/** @param {{route: import("./route.js").Route}} props */
export function NodePage({ route }) {
  const id = /** @type {string} */ (route.id);
  const nodes = useData("/v1/nodes");
  return html`<${Heading} title=${id} isId />
    <${Loaded} fetched=${nodes}>${(/** @type {any} */ { data }) => {
      const node = data.find((/** @type {any} */ one) => one.id === id);
      if (!node) return html`<div class="empty"><p>There is no such node, or it ended long ago.</p><a class="button" href=${to("nodes")}>All nodes</a></div>`;
      return html`<${Facts} rows=${[
        ["State", stateOf(node.alive ? "alive" : "dead")], ["Host", node.host], ["Process", String(node.pid)], ["Version", node.version],
        ["Runs leased", String(node.runs)], ["Deliveries leased", String(node.deliveries)],
        ["Started", timeOf(node.started_at, true)], ["Lease until", node.lease_expires_at && timeOf(node.lease_expires_at, true)],
      ]} />`;
    }}</${Loaded}>`;
}

export default function Nodes() {
  const nodes = useData("/v1/nodes");
  const findings = useData("/v1/doctor");
  const settings = useData("/v1/configuration");
  const may = useMay();
  return html`<${Heading} title="Nodes" />
    <${Loaded} fetched=${nodes}>${(/** @type {any} */ { data }) => html`<${Table} caption="Daemons that share the database" rows=${data} columns=${[
      { name: "Node", cell: (/** @type {import("./api.js").Schemas["NodeAnswer"]} */ node) => idOf(node.id, to("nodes", node.id)) },
      { name: "State", cell: (/** @type {import("./api.js").Schemas["NodeAnswer"]} */ node) => stateOf(node.alive ? "alive" : "dead") },
      { name: "Host", cell: (/** @type {import("./api.js").Schemas["NodeAnswer"]} */ node) => `${node.host}, process ${node.pid}` },
      { name: "Version", cell: (/** @type {import("./api.js").Schemas["NodeAnswer"]} */ node) => node.version },
      { name: "Runs", kind: "number", cell: (/** @type {import("./api.js").Schemas["NodeAnswer"]} */ node) => String(node.runs) },
      { name: "Deliveries", kind: "number", cell: (/** @type {import("./api.js").Schemas["NodeAnswer"]} */ node) => String(node.deliveries) },
      { name: "Started", cell: (/** @type {import("./api.js").Schemas["NodeAnswer"]} */ node) => timeOf(node.started_at) },
      { name: "Lease until", cell: (/** @type {import("./api.js").Schemas["NodeAnswer"]} */ node) => timeOf(node.lease_expires_at) },
    ]} />`}</${Loaded}>
    ${may && html`<${Sessions} />`}
    <section><h2>What the doctor finds</h2><${Loaded} fetched=${findings}>${(/** @type {any} */ { data }) => html`<${Table} caption="Checks" rows=${data} keyOf=${(/** @type {any} */ row) => row.check} columns=${[
      { name: "Check", cell: (/** @type {any} */ row) => visible(row.check) },
      { name: "Result", cell: (/** @type {any} */ row) => stateOf(RESULTS[row.result] ?? row.result) },
      { name: "Detail", cell: (/** @type {any} */ row) => html`<bdi>${visible(row.detail)}</bdi>` },
    ]} />`}</${Loaded}></section>
    <section><h2>Settings in effect</h2><${Loaded} fetched=${settings}>${(/** @type {any} */ { data }) => html`<${Table} caption="Settings, secrets masked" rows=${data} keyOf=${(/** @type {any} */ row) => row.key} columns=${[
      { name: "Key", cell: (/** @type {any} */ row) => html`<code>${row.key}</code>` },
      { name: "Value", cell: (/** @type {any} */ row) => html`<bdi>${visible(String(row.value))}</bdi>` },
      { name: "Origin", cell: (/** @type {any} */ row) => html`<bdi>${visible(row.origin)}</bdi>` },
    ]} />`}</${Loaded}></section>`;
}
