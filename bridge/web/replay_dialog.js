/** Sending events again: one, or many that are chosen by time, type and what became of them, and counted first. */
import { html, useRef, useState } from "./preact.js";
import { now, post } from "./api.js";
import { Action, Dialog, toast, useMay } from "./action.js";
import { useData } from "./data.js";
import { refetchAll } from "./live.js";
import { go, to } from "./route.js";
import { ErrorBox, useOfflineReason } from "./ui.js";

const STATUSES = ["all", "missed", "exhausted", "failed", "delivered", "pending"];
const TYPES = ["run.finished", "run.started", "run.waiting", "run.resumed", "run.overdue", "connection.failing", "connection.recovered", "endpoint.disabled"];

/** @param {{endpoint?: string, since?: string, until?: string, status?: string, types?: string, close: () => void}} props */
export function ReplayDialog({ endpoint: given, since, until, status, types, close }) {
  const dayAgo = `${new Date(now() - 86400000).toISOString().slice(0, 19)}Z`;
  const [count, setCount] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [endpoint, setEndpoint] = useState(given ?? "");
  const counted = useRef(/** @type {HTMLElement | null} */ (null));
  const ask = async (/** @type {any} */ event) => {
    event.preventDefault();
    const form = Object.fromEntries([...new FormData(event.currentTarget)].map(([name, value]) => [name, String(value).trim()]));
    const body = {
      since: form.since, ...(form.until ? { until: form.until } : {}), ...(form.type ? { types: [form.type] } : {}), status: form.status,
    };
    const isSure = event.submitter?.name === "sure";
    setError(null);
    try {
      const answer = await post(`/v1/endpoints/${encodeURIComponent(endpoint)}/replay`, isSure ? body : { ...body, dry_run: true });
      if (!isSure) {
        counted.current?.focus();
        return setCount(answer.count);
      }
      close();
      toast(`${answer.count} events are sent again`);
      refetchAll();
      go(to("replays", answer.id));
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<${Dialog} title=${given ? `Replay to ${given}` : "Replay"} close=${close}><form class="stack" onSubmit=${ask} onChange=${() => setCount(null)}>
    ${!given && html`<${EndpointChoice} all="choose one" isRequired onChoose=${setEndpoint} />`}
    <label><span>Since</span><input name="since" required defaultValue=${since || dayAgo} /></label>
    <label><span>Until (optional)</span><input name="until" defaultValue=${until || ""} placeholder="now" /></label>
    <label><span>Type</span><select name="type"><option value="">any</option>${TYPES.map((type) => html`<option key=${type} selected=${type === types}>${type}</option>`)}</select></label>
    <label><span>What became of them there</span><select name="status">${STATUSES.map((one) => html`<option key=${one} selected=${one === (status || "all")}>${one}</option>`)}</select></label>
    <p tabindex="-1" ref=${counted}>${count === null ? "Count first: nothing is sent by that." : `${count} events match.`}</p>
    ${error && html`<${ErrorBox} error=${error} />`}
    <p class="buttons"><button type="button" onClick=${close}>Back</button><button type="submit" name="count">Count</button>
      <button type="submit" name="sure" class="primary">Replay</button></p></form></${Dialog}>`;
}

/** @param {{endpoint?: string, since?: string, until?: string, status?: string, types?: string}} props */
export function ReplayButton(props) {
  const [isOpen, setOpen] = useState(false);
  const reason = useOfflineReason();
  if (!useMay()) return null;
  return html`<button type="button" disabled=${Boolean(reason)} title=${reason} onClick=${() => setOpen(true)}>Replay</button>
    ${isOpen && html`<${ReplayDialog} ...${props} close=${() => setOpen(false)} />`}`;
}

/** The endpoints to choose from, disabled ones left out. @param {{all: string, isRequired?: boolean, onChoose: (id: string) => void}} props */
function EndpointChoice({ all, isRequired = false, onChoose }) {
  const endpoints = useData("/v1/endpoints?limit=200");
  const names = (endpoints.data?.data ?? []).filter((/** @type {any} */ one) => one.enabled).map((/** @type {any} */ one) => one.id);
  return html`<label><span>To</span><select required=${isRequired} onChange=${(/** @type {any} */ event) => onChoose(event.currentTarget.value)}><option value="">${all}</option>
    ${names.map((/** @type {string} */ name) => html`<option key=${name}>${name}</option>`)}</select></label>`;
}

/** Send one event again, to one endpoint or to all. @param {{id: string, kind?: string}} props */
export function ReplayEvent({ id, kind = "" }) {
  const endpoint = useRef("");
  const replay = async () => (await post(`/v1/events/${encodeURIComponent(id)}/replay`, endpoint.current ? { endpoint: endpoint.current } : {})).deliveries.length;
  return html`<${Action} name="Replay" kind=${kind} run=${replay} done=${(/** @type {number} */ count) => `Sent again to ${count} ${count === 1 ? "endpoint" : "endpoints"}`}
    confirm=${html`<div class="stack"><p>This sends the event again now. Receivers that have seen its id should ignore it.</p>
      <${EndpointChoice} all="every endpoint that had it or wants it" onChoose=${(/** @type {string} */ name) => (endpoint.current = name)} /></div>`} />`;
}
