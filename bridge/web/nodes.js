import { html } from "./preact.js";
import { useData } from "./data.js";
import { Table } from "./table.js";
import { Heading, Loaded, State, Time, visible } from "./ui.js";

/** What each result of a check is shown as. @type {Record<string, string>} */
const RESULTS = { ok: "ok", remark: "attention", wrong: "failing" };

export default function Nodes() {
  const nodes = useData("/v1/nodes");
  const findings = useData("/v1/doctor");
  const settings = useData("/v1/configuration");
  return html`<${Heading} title="Nodes" />
    <${Loaded} fetched=${nodes}>${(/** @type {any} */ { data }) => html`<${Table} caption="Daemons that share the database" rows=${data} columns=${[
      { name: "Node", cell: (/** @type {any} */ node) => html`<span class="id">${node.id}</span>` },
      { name: "State", cell: (/** @type {any} */ node) => html`<${State} is=${node.alive ? "alive" : "dead"} />` },
      { name: "Host", cell: (/** @type {any} */ node) => `${node.host}, process ${node.pid}` },
      { name: "Version", cell: (/** @type {any} */ node) => node.version },
      { name: "Runs", isNumber: true, cell: (/** @type {any} */ node) => String(node.runs) },
      { name: "Deliveries", isNumber: true, cell: (/** @type {any} */ node) => String(node.deliveries) },
      { name: "Started", cell: (/** @type {any} */ node) => html`<${Time} at=${node.started_at} />` },
      { name: "Lease until", cell: (/** @type {any} */ node) => html`<${Time} at=${node.lease_expires_at} />` },
    ]} />`}</${Loaded}>
    <section><h2>What the doctor finds</h2><${Loaded} fetched=${findings}>${(/** @type {any} */ { data }) => html`<${Table} caption="Checks" rows=${data} keyOf=${(/** @type {any} */ row) => row.check} columns=${[
      { name: "Check", cell: (/** @type {any} */ row) => visible(row.check) },
      { name: "Result", cell: (/** @type {any} */ row) => html`<${State} is=${RESULTS[row.result] ?? row.result} />` },
      { name: "Detail", cell: (/** @type {any} */ row) => html`<bdi>${visible(row.detail)}</bdi>` },
    ]} />`}</${Loaded}></section>
    <section><h2>Settings in effect</h2><${Loaded} fetched=${settings}>${(/** @type {any} */ { data }) => html`<${Table} caption="Settings, secrets masked" rows=${data} keyOf=${(/** @type {any} */ row) => row.key} columns=${[
      { name: "Key", cell: (/** @type {any} */ row) => html`<code>${row.key}</code>` },
      { name: "Value", cell: (/** @type {any} */ row) => html`<bdi>${visible(String(row.value))}</bdi>` },
      { name: "Origin", cell: (/** @type {any} */ row) => html`<bdi>${visible(row.origin)}</bdi>` },
    ]} />`}</${Loaded}></section>`;
}
