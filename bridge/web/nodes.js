import { html } from "./preact.js";
import { call, pathOf } from "./api.js";
import { useMay, useRowAction } from "./action.js";
import { useData } from "./data.js";
import { to } from "./route.js";
import { tableOf } from "./table.js";
import { factsOf, Heading, idOf, loaded, stateOf, timeOf, visible } from "./ui.js";

/** What each result of a check is shown as. @type {Record<string, string>} */
const RESULTS = { ok: "ok", remark: "attention", wrong: "failing" };

const END = { name: "End", done: "The session is over", confirm: html`<p>The browser that opened it has to sign in again.</p>` };

function Sessions() {
  const sessions = useData("/v1/sessions");
  const { button, dialog } = useRowAction(END, (id) => call("DELETE", pathOf("sessions", id)));
  return html`<section><h2>Open sessions</h2>${loaded(sessions, ({ data }) => tableOf("Sessions of the dashboard", data, [
    ["Session", (one) => idOf(one.id)], ["Token", (one) => one.token], ["Signed in", (one) => timeOf(one.created_at)],
    ["Last used", (one) => timeOf(one.last_used_at)], ["Ends", (one) => timeOf(one.expires_at)],
    ["Action", (one) => button?.(one.id)],
  ]))}${dialog}</section>`;
}

/** @param {import("./api.js").Schemas["NodeAnswer"]} node */
const aliveOf = (node) => stateOf(node.alive ? "alive" : "dead");

/** @param {{route: import("./route.js").Route}} props */
export function NodePage({ route }) {
  const id = /** @type {string} */ (route.id);
  return html`<${Heading} title=${id} isId />${loaded(useData("/v1/nodes"), ({ data }) => {
    /** @type {import("./api.js").Schemas["NodeAnswer"]} */
    const node = data.find((/** @type {any} */ one) => one.id === id);
    if (!node) return html`<div class="empty"><p>There is no such node, or it ended long ago.</p><a class="button" href=${to("nodes")}>All nodes</a></div>`;
    return factsOf([
      ["State", aliveOf(node)], ["Host", node.host], ["Process", String(node.pid)], ["Version", node.version],
      ["Runs leased", String(node.runs)], ["Deliveries leased", String(node.deliveries)],
      ["Started", timeOf(node.started_at, true)], ["Lease until", node.lease_expires_at && timeOf(node.lease_expires_at, true)],
    ]);
  })}`;
}

export default function Nodes() {
  const nodes = useData("/v1/nodes");
  const findings = useData("/v1/doctor");
  const settings = useData("/v1/configuration");
  const may = useMay();
  return html`<${Heading} title="Nodes" />
    ${loaded(nodes, (/** @type {{data: import("./api.js").Schemas["NodeAnswer"][]}} */ { data }) => tableOf("Daemons that share the database", data, [
      ["Node", (node) => idOf(node.id, to("nodes", node.id))], ["State", aliveOf], ["Host", (node) => `${node.host}, process ${node.pid}`], ["Version", (node) => node.version],
      ["Runs", (node) => String(node.runs), "number"], ["Deliveries", (node) => String(node.deliveries), "number"],
      ["Started", (node) => timeOf(node.started_at)], ["Lease until", (node) => timeOf(node.lease_expires_at)],
    ]))}
    ${may && html`<${Sessions} />`}
    <section><h2>What the doctor finds</h2>${loaded(findings, ({ data }) => tableOf("Checks", data, [
      ["Check", (row) => visible(row.check)], ["Result", (row) => stateOf(RESULTS[row.result] ?? row.result)], ["Detail", (row) => html`<bdi>${visible(row.detail)}</bdi>`],
    ], (row) => row.check))}</section>
    <section><h2>Settings in effect</h2>${loaded(settings, ({ data }) => tableOf("Settings, secrets masked", data, [
      ["Key", (row) => html`<code>${row.key}</code>`], ["Value", (row) => html`<bdi>${visible(String(row.value))}</bdi>`], ["Origin", (row) => html`<bdi>${visible(row.origin)}</bdi>`],
    ], (row) => row.key))}</section>`;
}
