/** Sending events again: one, or many that are chosen by time, type and what became of them, and counted first. */
import { html, useRef, useState } from "./preact.js";
import { now, post, withQuery } from "./api.js";
import { Action, Dialog, toast, useMay } from "./action.js";
import { useData, useList } from "./data.js";
import { refetchAll } from "./live.js";
import { go, to } from "./route.js";
import { Filters, ListBody } from "./table.js";
import { durationText, ErrorBox, Facts, Heading, idOf, Loaded, stateOf, timeOf, useOfflineReason } from "./ui.js";

/** @param {{replay: any}} props */
function Progress({ replay }) {
  const count = Number(replay.count), done = Number(replay.replayed);
  return html`<progress max=${count || 1} value=${count ? done : 1} aria-label="Progress"></progress> ${done} of ${count}`;
}

/** @type {import("./table.js").Column<import("./api.js").Schemas["ReplayAnswer"]>[]} */
const COLUMNS = [
  { name: "Replay", size: "17.4rem", cell: (one) => idOf(one.id, to("replays", one.id)) },
  { name: "State", size: "7rem", cell: (one) => stateOf(one.state) },
  { name: "Endpoint", cell: (one) => html`<a href=${to("endpoints", one.endpoint_id)}>${one.endpoint_id}</a>` },
  { name: "Progress", cell: (one) => html`<${Progress} replay=${one} />` },
  { name: "Created", kind: "time", size: "6rem", sort: "descending", cell: (one) => timeOf(one.created_at) },
];

/** @param {{route: import("./route.js").Route}} props */
export default function Replays({ route }) {
  const list = useList(withQuery("/v1/replays", route.query));
  const endpoints = useData("/v1/endpoints?limit=200");
  const names = (endpoints.data?.data ?? []).map((/** @type {any} */ one) => one.id);
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
      ["State", stateOf(one.state)], ["Progress", html`<${Progress} replay=${one} />`],
      ["Endpoint", html`<a href=${to("endpoints", one.endpoint_id)}>${one.endpoint_id}</a>`],
      ["Rate", `${one.rate} a second`],
      ["Time left, about", one.state === "running" ? durationText((Number(one.count) - Number(one.replayed)) / Number(one.rate)) : ""],
      ["Events since", timeOf(one.since, true)], ["Until", one.until && timeOf(one.until, true)],
      ["Types", one.types?.join(", ") ?? "all"], ["What became of them", one.status],
      ["Created", timeOf(one.created_at, true)], ["Finished", one.finished_at && timeOf(one.finished_at, true)],
      ["Deliveries", html`<a href=${to("deliveries", null, { endpoint: one.endpoint_id })}>of this endpoint</a>`],
    ]} />`}</${Loaded}>`;
}

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
    <label><span>Type</span><select name="type" aria-label="Type"><option value="">any</option>${TYPES.map((type) => html`<option key=${type} selected=${type === types}>${type}</option>`)}</select></label>
    <label><span>What became of them there</span><select name="status" aria-label="What became of them there">${STATUSES.map((one) => html`<option key=${one} selected=${one === (status || "all")}>${one}</option>`)}</select></label>
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
  return html`<label><span>To</span><select aria-label="To" required=${isRequired} onChange=${(/** @type {any} */ event) => onChoose(event.currentTarget.value)}><option value="">${all}</option>
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
