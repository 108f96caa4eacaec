/** The list of endpoints, and the dialog that adds or edits one. */
import { html, useState } from "./preact.js";
import { call, post, withQuery } from "./api.js";
import { Action, Dialog, toast, useMay } from "./action.js";
import { useList } from "./data.js";
import { refetchAll } from "./live.js";
import { to } from "./route.js";
import { Filters, ListBody } from "./table.js";
import { ErrorBox, Heading, idOf, stateOf, timeOf, useOfflineReason, visible } from "./ui.js";

/** @param {any} rate */
export const percent = (rate) => (rate === null || rate === undefined ? "–" : `${Math.floor(Number(rate) * 1000) / 10} %`);

/** @type {import("./table.js").Column<import("./api.js").Schemas["EndpointAnswer"]>[]} */
const COLUMNS = [
  { name: "Endpoint", size: "minmax(8rem, 1.4fr)", cell: (one) => idOf(one.id, to("endpoints", one.id)) },
  { name: "State", size: "7rem", cell: (one) => stateOf(one.enabled ? (one.failing_since ? "failing" : "enabled") : "disabled") },
  { name: "Address", size: "minmax(6rem, 2fr)", cell: (one) => visible(one.url) },
  { name: "Accepted, 24 h", size: "7.2rem", kind: "number", cell: (one) => percent(one.stats.day.success_rate) },
  { name: "Pending", size: "4.8rem", kind: "number", cell: (one) => String(one.stats.pending) },
  { name: "Oldest due", kind: "time", size: "5.6rem", cell: (one) => timeOf(one.stats.oldest_due_at) },
  { name: "Last answer", kind: "time", size: "minmax(7rem, 1.3fr)", cell: (one) => (one.stats.last_answer ? html`${one.stats.last_answer.status ?? ""} ${one.stats.last_answer.outcome}, ${timeOf(one.stats.last_answer.at)}` : "–") },
  { name: "Failing since", kind: "time", size: "6.6rem", cell: (one) => timeOf(one.failing_since) },
  { name: "Source", size: "5rem", cell: (one) => `${one.source}${one.ordered ? ", ordered" : ""}` },
];

/** Why an endpoint cannot be changed here; empty if it can. @param {any} one */
export const fixedReason = (one) => (one?.source === "config" ? "It stands in the configuration file; change it there." : "");

const ACTIONS = { name: "Actions", size: "8.6rem", cell: (/** @type {any} */ one) => {
  const path = `/v1/endpoints/${encodeURIComponent(one.id)}`;
  return html`<span class="row"><${Action} name="Ping" kind="quiet" done="A test event is on its way" run=${() => post(`${path}/ping`)} isOff=${one.enabled ? "" : "It is off"} />
    ${one.enabled ? html`<${Action} key="off" name="Disable" kind="quiet" isOff=${fixedReason(one)} done="Disabled: what is pending waits, and new events are not queued" run=${() => post(`${path}/disable`)} />`
      : html`<${Action} key="on" name="Enable" kind="quiet" done="Enabled; its page sends what it missed" run=${() => post(`${path}/enable`)} />`}</span>`;
} };

const WITH_ACTIONS = COLUMNS.toSpliced(2, 0, ACTIONS);

/** A secret that is shown once. @param {{secret: string, close: () => void}} props */
export function SecretDialog({ secret, close }) {
  return html`<${Dialog} title="Signing secret" close=${close}><p>It is shown only now. Give it to the receiver, which verifies signatures with it.</p>
    <p>${idOf(secret)}</p><p class="buttons"><button type="button" class="primary" onClick=${close}>I have it</button></p></${Dialog}>`;
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

/** @param {FormDataEntryValue | null} value */
const words = (value) => String(value ?? "").split(",").map((word) => word.trim()).filter(Boolean);

/** The settings in a form; what is empty is the default. @param {FormData} given */
function settingsOf(given) {
  const text = (/** @type {string} */ name) => String(given.get(name) ?? "").trim() || null;
  const rate = text("rate_limit");
  return {
    url: text("url") ?? "", events: words(given.get("events")).length ? words(given.get("events")) : null, filter: text("filter"), description: text("description"),
    ordered: given.get("ordered") !== null, payload: text("payload"), format: text("format"), rate_limit: rate === null ? null : Number.isFinite(Number(rate)) ? Number(rate) : rate,
  };
}

/** Without `endpoint` a new one is made, and `close` gets its secret. @param {{endpoint?: any, close: (secret?: string) => void}} props */
export function EndpointForm({ endpoint, close }) {
  const [error, setError] = useState(/** @type {any} */ (null));
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const settings = settingsOf(new FormData(/** @type {HTMLFormElement} */ (event.currentTarget)));
    try {
      if (endpoint) {
        const changed = Object.entries(settings).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(endpoint[name] ?? null) && !(name === "url" && value === endpoint.url));
        await call("PATCH", `/v1/endpoints/${encodeURIComponent(endpoint.id)}`, Object.fromEntries(changed));
        toast("Changed");
        close();
      } else {
        const made = await post("/v1/endpoints", Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== null)));
        toast(`Added ${made.id}`);
        close(made.secret);
      }
      refetchAll();
    } catch (problem) {
      setError(problem);
    }
  };
  const was = endpoint ?? {};
  const choice = (/** @type {string} */ name, /** @type {string} */ label, /** @type {string[]} */ options) => html`<label><span>${label}</span><select name=${name} aria-label=${label}>${options.map((one) => html`<option key=${one} selected=${was[name] === one}>${one}</option>`)}</select></label>`;
  return html`<${Dialog} title=${endpoint ? `Edit ${endpoint.id}` : "Add an endpoint"} close=${() => close()}><form class="stack" onSubmit=${save}>
    <label><span>Address</span><input name="url" required placeholder="https://" autocomplete="off" defaultValue=${was.url ?? ""} /></label>
    <label><span>Event types, separated by commas (all but run.progressed if empty)</span><input name="events" autocomplete="off" defaultValue=${was.events?.join(", ") ?? ""} /></label>
    <label><span>Filter, a JMESPath expression (optional)</span><input name="filter" autocomplete="off" defaultValue=${was.filter ?? ""} /></label>
    <label><span>Description (optional)</span><input name="description" autocomplete="off" defaultValue=${was.description ?? ""} /></label>
    ${choice("payload", "Payload", ["full", "thin"])}${choice("format", "Format", ["standard", "cloudevents"])}
    <label><span>Deliveries a second, at most (optional)</span><input name="rate_limit" inputmode="decimal" autocomplete="off" defaultValue=${was.rate_limit ?? ""} /></label>
    <label class="check"><input type="checkbox" name="ordered" defaultChecked=${Boolean(was.ordered)} /><span>One event of a run after the other</span></label>
    ${error && html`<${ErrorBox} error=${error} />`}
    <p class="buttons"><button type="button" onClick=${() => close()}>Back</button><button type="submit" class="primary">${endpoint ? "Save" : "Add"}</button></p></form></${Dialog}>`;
}
