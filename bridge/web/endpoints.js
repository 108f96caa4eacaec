import { html, useState } from "./preact.js";
import { post, withQuery } from "./api.js";
import { Action, Dialog, useMay } from "./action.js";
import { useList } from "./data.js";
import { EndpointForm } from "./endpoint_form.js";
import { to } from "./route.js";
import { Filters, ListBody } from "./table.js";
import { Heading, Id, State, Time, useOfflineReason, visible } from "./ui.js";

/** @param {any} rate */
export const percent = (rate) => (rate === null || rate === undefined ? "–" : `${Math.floor(Number(rate) * 1000) / 10} %`);

const COLUMNS = [
  { name: "Endpoint", cell: (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => html`<${Id} value=${one.id} href=${to("endpoints", one.id)} />` },
  { name: "State", cell: (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => html`<${State} is=${one.enabled ? (one.failing_since ? "failing" : "enabled") : "disabled"} />` },
  { name: "Address", cell: (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => html`<bdi class="cut">${visible(one.url)}</bdi>` },
  { name: "Accepted, 24 h", isNumber: true, cell: (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => percent(one.stats.day.success_rate) },
  { name: "Pending", isNumber: true, cell: (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => String(one.stats.pending) },
  { name: "Oldest due", cell: (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => html`<${Time} at=${one.stats.oldest_due_at} />` },
  { name: "Last answer", cell: (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => (one.stats.last_answer ? html`${one.stats.last_answer.status ?? ""} ${one.stats.last_answer.outcome}, <${Time} at=${one.stats.last_answer.at} />` : "–") },
  { name: "Failing since", cell: (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => html`<${Time} at=${one.failing_since} />` },
  { name: "Source", cell: (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => `${one.source}${one.ordered ? ", ordered" : ""}` },
];

/** Why an endpoint cannot be changed here; empty if it can. @param {any} one */
export const fixedReason = (one) => (one?.source === "config" ? "It stands in the configuration file; change it there." : "");

const ACTIONS = { name: "Actions", cell: (/** @type {import("./api.js").Schemas["EndpointAnswer"]} */ one) => {
  const path = `/v1/endpoints/${encodeURIComponent(one.id)}`;
  return html`<span class="row"><${Action} name="Ping" kind="quiet" done="A test event is on its way" run=${() => post(`${path}/ping`)} isOff=${one.enabled ? "" : "It is off"} />
    ${one.enabled ? html`<${Action} key="off" name="Disable" kind="quiet" isOff=${fixedReason(one)} done="Disabled: what is pending waits, and new events are not queued" run=${() => post(`${path}/disable`)} />`
      : html`<${Action} key="on" name="Enable" kind="quiet" done="Enabled; its page sends what it missed" run=${() => post(`${path}/enable`)} />`}</span>`;
} };

const WITH_ACTIONS = COLUMNS.toSpliced(2, 0, ACTIONS);

/** A secret that is shown once. @param {{secret: string, close: () => void}} props */
export function SecretDialog({ secret, close }) {
  return html`<${Dialog} title="Signing secret" close=${close}><p>It is shown only now. Give it to the receiver, which verifies signatures with it.</p>
    <p><${Id} value=${secret} /></p><p class="buttons"><button type="button" class="primary" onClick=${close}>I have it</button></p></${Dialog}>`;
}

/** @param {{route: import("./route.js").Route}} props */
export default function Endpoints({ route }) {
  const list = useList(withQuery("/v1/endpoints", route.query));
  const [isOpen, setOpen] = useState(false);
  const [secret, setSecret] = useState("");
  const reason = useOfflineReason();
  const may = useMay();
  const close = (/** @type {string | undefined} */ made) => {
    setOpen(false);
    setSecret(made ?? "");
  };
  return html`<${Heading} title="Endpoints">${may && html`<button type="button" class="primary" disabled=${Boolean(reason)} title=${reason} onClick=${() => setOpen(true)}>Add</button>`}</${Heading}>
    <${Filters} route=${route} fields=${[{ name: "one_run", label: "Webhooks of single runs", options: ["true"] }]} />
    <${ListBody} list=${list} route=${route} caption="Endpoints" columns=${may ? WITH_ACTIONS : COLUMNS} filters=${["one_run"]}
      empty=${html`<p>There is no endpoint yet. Add one here, in the configuration file, or on the command line:</p><pre tabindex="0">runbridge endpoints add https://example.com/hooks</pre>`} />
    ${isOpen && html`<${EndpointForm} close=${close} />`}${secret && html`<${SecretDialog} secret=${secret} close=${() => setSecret("")} />`}`;
}
