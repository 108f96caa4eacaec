import { html, useState } from "./preact.js";
import { post, withQuery } from "./api.js";
import { Dialog, toast, useMay } from "./action.js";
import { useList } from "./data.js";
import { refetchAll } from "./live.js";
import { to } from "./route.js";
import { Filters, ListBody } from "./table.js";
import { ErrorBox, Heading, Id, State, Time, useOfflineReason, visible } from "./ui.js";

/** @param {any} rate */
export const percent = (rate) => (rate === null || rate === undefined ? "–" : `${Math.floor(Number(rate) * 1000) / 10} %`);

const COLUMNS = [
  { name: "Endpoint", cell: (/** @type {any} */ one) => html`<${Id} value=${one.id} href=${to("endpoints", one.id)} />` },
  { name: "State", cell: (/** @type {any} */ one) => html`<${State} is=${one.enabled ? (one.failing_since ? "failing" : "enabled") : "disabled"} />` },
  { name: "Address", cell: (/** @type {any} */ one) => html`<bdi class="cut">${visible(one.url)}</bdi>` },
  { name: "Accepted, 24 h", isNumber: true, cell: (/** @type {any} */ one) => percent(one.stats.day.success_rate) },
  { name: "Pending", isNumber: true, cell: (/** @type {any} */ one) => String(one.stats.pending) },
  { name: "Oldest due", cell: (/** @type {any} */ one) => html`<${Time} at=${one.stats.oldest_due_at} />` },
  { name: "Last answer", cell: (/** @type {any} */ one) => (one.stats.last_answer ? html`${one.stats.last_answer.status ?? ""} ${one.stats.last_answer.outcome}, <${Time} at=${one.stats.last_answer.at} />` : "–") },
  { name: "Source", cell: (/** @type {any} */ one) => one.source },
];

/** A secret that is shown once. @param {{secret: string, close: () => void}} props */
export function SecretDialog({ secret, close }) {
  return html`<${Dialog} title="Signing secret" close=${close}><p>It is shown only now. Give it to the receiver, which verifies signatures with it.</p>
    <p><${Id} value=${secret} /></p><p class="buttons"><button type="button" class="primary" onClick=${close}>I have it</button></p></${Dialog}>`;
}

/** @param {{close: (secret?: string) => void}} props */
function Add({ close }) {
  const [error, setError] = useState(/** @type {any} */ (null));
  const add = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(/** @type {HTMLFormElement} */ (event.currentTarget)));
    const events = String(given.events).split(",").map((type) => type.trim()).filter(Boolean);
    const body = { url: String(given.url).trim(), ...(events.length ? { events } : {}), ...(given.description ? { description: given.description } : {}), ...(given.filter ? { filter: given.filter } : {}), ...(given.ordered ? { ordered: true } : {}) };
    try {
      const made = await post("/v1/endpoints", body);
      toast(`Added ${made.id}`);
      refetchAll();
      close(made.secret);
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<${Dialog} title="Add an endpoint" close=${() => close()}><form class="stack" onSubmit=${add}>
    <label><span>Address</span><input name="url" required placeholder="https://" autocomplete="off" /></label>
    <label><span>Event types, separated by commas (all but run.progressed if empty)</span><input name="events" autocomplete="off" /></label>
    <label><span>Filter, a JMESPath expression (optional)</span><input name="filter" autocomplete="off" /></label>
    <label><span>Description (optional)</span><input name="description" autocomplete="off" /></label>
    <label class="check"><input type="checkbox" name="ordered" /><span>One event of a run after the other</span></label>
    ${error && html`<${ErrorBox} error=${error} />`}
    <p class="buttons"><button type="button" onClick=${() => close()}>Back</button><button type="submit" class="primary">Add</button></p></form></${Dialog}>`;
}

/** @param {{route: import("./route.js").Route}} props */
export default function Endpoints({ route }) {
  const list = useList(withQuery("/v1/endpoints", route.query));
  const [isOpen, setOpen] = useState(false);
  const [secret, setSecret] = useState("");
  const reason = useOfflineReason();
  const close = (/** @type {string | undefined} */ made) => {
    setOpen(false);
    setSecret(made ?? "");
  };
  return html`<${Heading} title="Endpoints">${useMay() && html`<button type="button" class="primary" disabled=${Boolean(reason)} title=${reason} onClick=${() => setOpen(true)}>Add</button>`}</${Heading}>
    <${Filters} route=${route} fields=${[{ name: "one_run", label: "Webhooks of single runs", options: ["true"] }]} />
    <${ListBody} list=${list} route=${route} caption="Endpoints" columns=${COLUMNS} filters=${["one_run"]}
      empty=${html`<p>There is no endpoint yet. Add one here, in the configuration file, or on the command line:</p><pre tabindex="0">runbridge endpoints add https://example.com/hooks</pre>`} />
    ${isOpen && html`<${Add} close=${close} />`}${secret && html`<${SecretDialog} secret=${secret} close=${() => setSecret("")} />`}`;
}
