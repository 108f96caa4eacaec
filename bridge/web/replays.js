import { html } from "./preact.js";
import { post, withQuery } from "./api.js";
import { Action } from "./action.js";
import { useData, useList } from "./data.js";
import { to } from "./route.js";
import { ReplayButton } from "./replay_dialog.js";
import { Filters, ListBody } from "./table.js";
import { durationText, Facts, Heading, Id, Loaded, State, Time } from "./ui.js";

/** @param {{replay: any}} props */
function Progress({ replay }) {
  const count = Number(replay.count), done = Number(replay.replayed);
  return html`<progress max=${count || 1} value=${count ? done : 1} aria-label="Progress"></progress> ${done} of ${count}`;
}

const COLUMNS = [
  { name: "Replay", cell: (/** @type {import("./api.js").Schemas["ReplayAnswer"]} */ one) => html`<${Id} value=${one.id} href=${to("replays", one.id)} />` },
  { name: "State", cell: (/** @type {import("./api.js").Schemas["ReplayAnswer"]} */ one) => html`<${State} is=${one.state} />` },
  { name: "Endpoint", cell: (/** @type {import("./api.js").Schemas["ReplayAnswer"]} */ one) => html`<a href=${to("endpoints", one.endpoint_id)}>${one.endpoint_id}</a>` },
  { name: "Progress", cell: (/** @type {import("./api.js").Schemas["ReplayAnswer"]} */ one) => html`<${Progress} replay=${one} />` },
  { name: "Created", sort: /** @type {const} */ ("descending"), cell: (/** @type {import("./api.js").Schemas["ReplayAnswer"]} */ one) => html`<${Time} at=${one.created_at} />` },
];

/** @param {{route: import("./route.js").Route}} props */
export default function Replays({ route }) {
  const list = useList(withQuery("/v1/replays", route.query));
  const endpoints = useData("/v1/endpoints?limit=200");
  const names = (endpoints.data?.data ?? []).map((/** @type {import("./api.js").Schemas["ReplayAnswer"]} */ one) => one.id);
  const { endpoint } = route.query;
  return html`<${Heading} title="Replays"><${ReplayButton} endpoint=${endpoint} /></${Heading}>
    <${Filters} route=${route} fields=${[{ name: "endpoint", label: "Endpoint", options: names.includes(endpoint ?? names[0]) ? names : [...names, endpoint].filter(Boolean) }, { name: "state", label: "State", options: ["running", "done", "cancelled"] }]} />
    <${ListBody} list=${list} route=${route} caption="Replays, newest first" columns=${COLUMNS} filters=${["endpoint", "state"]}
      empty=${html`<p>Nothing was sent again yet. The page of an endpoint has the button, and so has the command line:</p><pre tabindex="0">runbridge endpoints replay ENDPOINT --since 2h --dry-run</pre>`} />`;
}

/** @param {{route: import("./route.js").Route}} props */
export function ReplayPage({ route }) {
  const id = /** @type {string} */ (route.id);
  const path = `/v1/replays/${encodeURIComponent(id)}`;
  const fetched = useData(path);
  const found = fetched.data;
  return html`<${Heading} title=${id} isId>${found?.state === "running" && html`<${Action} name="Cancel" done="Cancelled" run=${() => post(`${path}/cancel`)} confirm=${html`<p>What was sent already stays sent.</p>`} />`}</${Heading}>
    <${Loaded} fetched=${fetched}>${(/** @type {import("./api.js").Schemas["ReplayAnswer"]} */ one) => html`<${Facts} rows=${[
      ["State", html`<${State} is=${one.state} />`], ["Progress", html`<${Progress} replay=${one} />`],
      ["Endpoint", html`<a href=${to("endpoints", one.endpoint_id)}>${one.endpoint_id}</a>`],
      ["Rate", `${one.rate} a second`],
      ["Time left, about", one.state === "running" ? durationText((Number(one.count) - Number(one.replayed)) / Number(one.rate)) : ""],
      ["Events since", html`<${Time} at=${one.since} exact />`], ["Until", one.until && html`<${Time} at=${one.until} exact />`],
      ["Types", one.types?.join(", ") ?? "all"], ["What became of them", one.status],
      ["Created", html`<${Time} at=${one.created_at} exact />`], ["Finished", one.finished_at && html`<${Time} at=${one.finished_at} exact />`],
      ["Deliveries", html`<a href=${to("deliveries", null, { endpoint: one.endpoint_id })}>of this endpoint</a>`],
    ]} />`}</${Loaded}>`;
}
