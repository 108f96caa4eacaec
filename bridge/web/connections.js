import { html } from "./preact.js";
import { post } from "./api.js";
import { Action, useMay } from "./action.js";
import { useList } from "./data.js";
import { to } from "./route.js";
import { ListBody } from "./table.js";
import { Heading, Id, State, Time, visible } from "./ui.js";

const COLUMNS = [
  { name: "Connection", cell: (/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => html`<${Id} value=${one.name} href=${to("connections", one.name)} />` },
  { name: "Health", cell: (/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => html`<${State} is=${one.health} />` },
  { name: "Reason", cell: (/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => html`<bdi class="cut">${visible(one.reason ?? one.last_error?.message ?? "–")}</bdi>` },
  { name: "Since", cell: (/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => html`<${Time} at=${one.since} />` },
  { name: "Provider", cell: (/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => one.provider },
  { name: "Watched", isNumber: true, cell: (/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => String(one.state.runs_in_hand ?? "–") },
  { name: "Requests a second", cell: (/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => `${one.state.requests_per_second ?? "–"}${one.state.limit_is_learned ? ", learned" : ""}` },
  { name: "Price", isNumber: true, cell: (/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => `${Math.round(Number(one.state.shadow_price_s ?? 0) * 100) / 100} s` },
  { name: "In flight", isNumber: true, cell: (/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => `${one.state.in_flight ?? "–"} of ${one.state.max_in_flight ?? "–"}` },
];
const CHECK = { name: "Action", cell: (/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => html`<${CheckButton} name=${one.name} kind="quiet" />` };
const WITH_CHECK = COLUMNS.toSpliced(2, 0, CHECK);

/** One real call with the connection's key. @param {{name: string, kind?: string}} props */
export function CheckButton({ name, kind = "" }) {
  const check = async () => {
    const answer = await post(`/v1/connections/${encodeURIComponent(name)}/check`);
    if (!answer.ok) throw Object.assign(new Error(answer.detail), { title: "The key is not proven", errors: [] });
    return answer;
  };
  return html`<${Action} name="Check" kind=${kind} run=${check} done=${(/** @type {any} */ answer) => `${answer.detail} (${answer.duration_ms} ms)`} />`;
}

/** @param {{route: import("./route.js").Route}} props */
export default function Connections({ route }) {
  const list = useList("/v1/connections", "name");
  return html`<${Heading} title="Connections" />
    <${ListBody} list=${list} route=${route} caption="Connections" columns=${useMay() ? WITH_CHECK : COLUMNS} keyOf=${(/** @type {import("./api.js").Schemas["ConnectionAnswer"]} */ one) => one.name}
      empty=${html`<p>No connection is configured. Add one to the configuration file and reload it:</p><pre tabindex="0">[connections.my-dify]${"\n"}provider = "dify"${"\n"}api_key_env = "DIFY_TOKEN"</pre>`} />`;
}
