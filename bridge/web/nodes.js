import { html } from "./preact.js";
import { useData } from "./data.js";
import { Table } from "./table.js";
import { Heading, Loaded, State, Time } from "./ui.js";

export default function Nodes() {
  const nodes = useData("/v1/nodes");
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
    ]} />`}</${Loaded}>`;
}
