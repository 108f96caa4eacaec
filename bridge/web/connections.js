import { html, useMemo } from "./preact.js";
import { pathOf, post } from "./api.js";
import { Action, useRowAction } from "./action.js";
import { CadencePlot, secondsText } from "./charts.js";
import { useData, useList } from "./data.js";
import { to } from "./route.js";
import { ListBody, tableOf } from "./table.js";
import { factsOf, Heading, idOf, loaded, stateOf, timeOf, visible } from "./ui.js";

/** @type {import("./table.js").Column<import("./api.js").Schemas["ConnectionAnswer"]>[]} */
const COLUMNS = [
  { name: "Connection", size: "minmax(7rem, 1.5fr)", cell: (one) => idOf(one.name, to("connections", one.name)) },
  { name: "Health", size: "6.5rem", cell: (one) => stateOf(one.health) },
  { name: "Reason", size: "minmax(6rem, 2fr)", cell: (one) => visible(one.reason ?? one.last_error?.message ?? "–") },
  { name: "Since", kind: "time", size: "6rem", cell: (one) => timeOf(one.since) },
  { name: "Provider", cell: (one) => one.provider },
  { name: "Watched", size: "5rem", kind: "number", cell: (one) => String(one.state.runs_in_hand ?? "–") },
  { name: "Last list", kind: "time", size: "5.5rem", cell: (one) => timeOf(one.last_list_at) },
  { name: "Requests a second", size: "9rem", cell: (one) => `${one.state.requests_per_second ?? "–"}${one.state.limit_is_learned ? ", learned" : ""}${Number(one.state.over_capacity_by) > 1 ? `, wanted ${one.state.over_capacity_by} times` : ""}` },
  { name: "Price", size: "4.5rem", kind: "number", cell: (one) => `${Math.round(Number(one.state.shadow_price_s ?? 0) * 100) / 100} s` },
  { name: "In flight", size: "5.5rem", kind: "number", cell: (one) => `${one.state.in_flight ?? "–"} of ${one.state.max_in_flight ?? "–"}` },
];
const CHECK = { name: "Check", done: (/** @type {any} */ answer) => `${answer.detail} (${answer.duration_ms} ms)` };

/** One real call with the connection's key. @param {string} name */
async function check(name) {
  const answer = await post(`${pathOf("connections", name)}/check`);
  if (!answer.ok) throw Object.assign(new Error(answer.detail), { title: "The key is not proven", errors: [] });
  return answer;
}

/** @param {{route: import("./route.js").Route}} props */
export default function Connections({ route }) {
  const list = useList("/v1/connections", "name");
  const { button, dialog } = useRowAction(CHECK, check);
  const columns = useMemo(() => (button ? COLUMNS.toSpliced(2, 0, { name: "Action", size: "4.5rem", cell: (one) => button(one.name) }) : COLUMNS), [button]);
  return html`<${Heading} title="Connections" />
    <${ListBody} list=${list} route=${route} caption="Connections" columns=${columns} keyOf=${(/** @type {any} */ one) => one.name}
      empty=${html`<p>No connection is configured. Add one to the configuration file and reload it:</p><pre tabindex="0">[connections.my-dify]${"\n"}provider = "dify"${"\n"}api_key_env = "DIFY_TOKEN"</pre>`} />${dialog}`;
}

/** @param {{distribution: any, name: string}} props */
function Cadence({ distribution: learned, name }) {
  const workflow = learned.workflow_id ?? "";
  const polls = learned.planned_polls_s;
  let share = 1;
  const cells = learned.cells.map((/** @type {any} */ cell, /** @type {number} */ id) => ({ id, ...cell, left: (share = Math.max(0, share - Number(cell.share))) }));
  return html`<section><h2>Cadence of <bdi>${visible(workflow || "runs without a workflow")}</bdi></h2>
    <p>The line is the share of runs that still go on at an age; the ticks beneath are the planned polls. The shaded steps show how long an end may wait for the next poll.</p>
    <${CadencePlot} distribution=${learned} />
    ${factsOf([
      ["Runs remembered", String(learned.runs_remembered)], ["Median", secondsText(learned.median_s)], ["p90", secondsText(learned.p90_s)], ["p99", secondsText(learned.p99_s)],
      ["Polls of a run, expected", String(learned.expected_polls)], ["Delay, expected", secondsText(learned.expected_delay_s)], ["Price of a request", secondsText(learned.price_s)],
      ["Runs", html`<a href=${to("runs", null, { connection: name, workflow_id: workflow })}>show</a>`],
    ])}
    <details><summary>As a table</summary><div class="two">
    ${tableOf("Durations", cells, [
      ["Longer than", (cell) => secondsText(cell.from_s)], ["At most", (cell) => secondsText(cell.to_s)],
      ["Share of runs", (cell) => `${(Number(cell.share) * 100).toFixed(1)} %`, "number"], ["Go on", (cell) => `${(cell.left * 100).toFixed(1)} %`, "number"],
    ])}
    ${tableOf("Planned polls", polls.slice(0, 200).map((/** @type {any} */ at, /** @type {number} */ id) => ({ id, at, gap: Number(at) - Number(id ? polls[id - 1] : 0) })), [
      ["Poll", (row) => String(row.id + 1), "number"], ["At age", (row) => secondsText(row.at)], ["After", (row) => secondsText(row.gap)],
    ])}</div></details></section>`;
}

/** @param {{route: import("./route.js").Route}} props */
export function ConnectionPage({ route }) {
  const name = /** @type {string} */ (route.id);
  const path = pathOf("connections", name);
  const plain = useData(path);
  const learned = plain.data?.state.learned ?? [];
  const workflow = route.query.workflow ?? (learned.length ? learned[0].workflow_id ?? "" : null);
  const plotted = useData(workflow === null ? null : `${path}?${new URLSearchParams({ workflow })}`);
  return html`<${Heading} title=${name} isId>${plain.data && html`<${Action} ...${CHECK} run=${() => check(name)} />`}</${Heading}>
    ${loaded(plain, (/** @type {import("./api.js").Schemas["ConnectionInFull"]} */ one) => html`
      ${factsOf([
        ["Health", stateOf(one.health)],
        ["Reason", one.reason && html`<bdi>${visible(one.reason)}</bdi>`],
        ["Since", one.since && timeOf(one.since, true)],
        ["Last error", one.last_error && html`${one.last_error.kind}: ${visible(one.last_error.message)} (${String(one.last_error.count)} times, the last ${timeOf(one.last_error.at)})`],
        ["Key", one.last_check && html`${one.last_check.ok ? "✓" : "✗"} ${visible(one.last_check.detail)} (${timeOf(one.last_check.at)})`],
        ["Provider", one.provider], ["Address", idOf(one.base_url)],
        ["Runs", html`<a href=${to("runs", null, { connection: name, state: "open" })}>${String(one.state.runs_in_hand)} watched by this node</a>`],
        ["Last list", one.last_list_at && timeOf(one.last_list_at, true)],
        ["Requests a second", `${one.state.requests_per_second}, ${one.state.limit_is_learned ? "learned" : "configured"}`],
        ["Why this limit", one.state.limit_reason && visible(String(one.state.limit_reason))],
        ["In flight", `${one.state.in_flight} of at most ${one.state.max_in_flight}`],
        ["Paused for", Number(one.state.paused_for_s) ? secondsText(one.state.paused_for_s) : ""],
        ["Delay worth one request", secondsText(one.state.shadow_price_s)],
        ["Over capacity", Number(one.state.over_capacity_by) > 1 ? `${one.state.over_capacity_by} times what the limit allows` : "no"],
        ["Nodes that share the limit", String(one.state.limits_shared_by_nodes)],
        ["Cadence", [one.cadence.target_delay ? `target delay ${one.cadence.target_delay}` : `price ${one.cadence.price}`, `every ${one.cadence.min_interval} to ${one.cadence.max_interval}`, `deadline ${one.cadence.deadline}`].join(", ")],
      ])}
      <section><h2>Workflows</h2>${learned.length === 0 ? html`<p>Nothing is learned yet: durations are learned from runs that end.</p>` : tableOf("What was learned, by workflow", learned, [
        ["Workflow", (row) => html`<a href=${`${to("connections", name)}?${new URLSearchParams({ workflow: row.workflow_id ?? "" })}`}><bdi>${visible(row.workflow_id ?? "without one")}</bdi></a>`],
        ["Median", (row) => secondsText(row.median_s), "number"], ["p90", (row) => secondsText(row.p90_s), "number"],
        ["Polls a run", (row) => String(row.polls_per_run ?? "–"), "number"], ["Delay", (row) => (row.mean_delay_s === null ? "–" : secondsText(row.mean_delay_s)), "number"],
      ], (row) => row.workflow_id ?? "")}</section>`)}
    ${workflow !== null && loaded(plotted, (/** @type {import("./api.js").Schemas["ConnectionInFull"]} */ one) => one.distribution && html`<${Cadence} distribution=${one.distribution} name=${name} />`)}`;
}
