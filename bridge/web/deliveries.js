import { html } from "./preact.js";
import { post, withQuery } from "./api.js";
import { Action, useMay } from "./action.js";
import { Bulk } from "./bulk.js";
import { useData, useList } from "./data.js";
import { ReplayButton } from "./replay_dialog.js";
import { to } from "./route.js";
import { Filters, ListBody, useSelection } from "./table.js";
import { Heading, Id, State, Time } from "./ui.js";

const FILTERS = ["state", "endpoint", "event", "run", "since", "until"];

export const deliveryColumns = [
  { name: "Delivery", cell: (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => html`<${Id} value=${one.id} href=${to("deliveries", one.id)} />` },
  { name: "State", cell: (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => html`<${State} is=${one.state} />` },
  { name: "Event", cell: (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => html`<a href=${to("events", one.event_id)}>${one.event_type}</a>` },
  { name: "Endpoint", cell: (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => html`<a class="cut" href=${to("endpoints", one.endpoint_id)}>${one.endpoint_id}</a>` },
  { name: "Run", cell: (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => (one.run_id ? html`<a href=${to("runs", one.run_id)} class="id cut">${one.run_id}</a>` : "–") },
  { name: "Attempts", isNumber: true, cell: (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => String(one.attempt_count) },
  { name: "Last answer", cell: (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => (one.last_outcome ? html`<span class="nowrap">${one.last_status ?? ""} ${one.last_outcome}</span>` : "–") },
  { name: "Created", sort: /** @type {const} */ ("descending"), cell: (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => html`<${Time} at=${one.created_at} />` },
  { name: "Next try", cell: (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => html`<${Time} at=${one.next_attempt_at} />` },
];

/** @type {import("./bulk.js").Operation[]} */
const BULK = [{ name: "Retry", path: "/v1/deliveries/retry", what: "deliveries are", warning: "Each selected delivery is sent again with the same bytes, whatever became of it. Those whose endpoint is off are left alone." }];
const RETRY = { name: "Action", cell: (/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => (one.state === "discarded" ? "" : html`<${Action} name="Retry" kind="quiet" done="It is sent again now" run=${() => post(`/v1/deliveries/${one.id}/retry`)} />`) };

const WITH_RETRY = deliveryColumns.toSpliced(2, 0, RETRY);

/** @param {{route: import("./route.js").Route}} props */
export default function Deliveries({ route }) {
  const path = withQuery("/v1/deliveries", route.query);
  const list = useList(path);
  const selection = useSelection(path);
  const may = useMay();
  const endpoints = useData("/v1/endpoints?limit=200");
  const names = (endpoints.data?.data ?? []).map((/** @type {import("./api.js").Schemas["DeliveryAnswer"]} */ one) => one.id);
  const { endpoint, state, since, until } = route.query;
  return html`<${Heading} title="Deliveries">${endpoint && html`<${ReplayButton} endpoint=${endpoint} since=${since} until=${until} status=${state === "exhausted" ? "exhausted" : ""} />`}</${Heading}>
    <${Filters} route=${route} fields=${[
      { name: "state", label: "State", options: ["pending", "delivered", "exhausted", "discarded"] },
      { name: "endpoint", label: "Endpoint", options: names.includes(endpoint ?? names[0]) ? names : [...names, endpoint].filter(Boolean) },
      { name: "event", label: "Event id" }, { name: "run", label: "Run id" },
      { name: "since", label: "Since" }, { name: "until", label: "Until" },
    ]} />
    <${Bulk} operations=${BULK} route=${route} filters=${FILTERS} selection=${selection} />
    <${ListBody} list=${list} route=${route} caption="Deliveries, newest first" columns=${may ? WITH_RETRY : deliveryColumns} filters=${FILTERS} selection=${selection}
      empty=${html`<p>Nothing has been sent yet. Add an endpoint, and what happens from then on is sent to it:</p><pre tabindex="0">runbridge endpoints add https://example.com/hooks</pre>`} />`;
}
