import { html } from "./preact.js";
import { useData } from "./data.js";
import { Bars } from "./charts.js";
import { to } from "./route.js";
import { clockText, factsOf, Heading, loaded, stateOf, timeOf, visible } from "./ui.js";
import { Table, tableOf } from "./table.js";
import { STATES } from "./deliveries.js";
import { eventColumns } from "./events.js";
import { STATUSES } from "./runs.js";

/** @param {{page: string, filter: string, names: string[], counts: Record<string, number>}} props */
function Counts({ page, filter, names, counts }) {
  return html`<ul class="counts">${names.map((name) => html`<li key=${name} class=${counts[name] ? "" : "zero"}>
    <a href=${to(page, null, { [filter]: name })}><strong>${countText(counts[name])}</strong>${stateOf(name)}</a></li>`)}</ul>`;
}

const numbers = new Intl.NumberFormat();

/** @param {any} count */
const countText = (count) => numbers.format(Number(count ?? 0));

/** @param {any} bytes */
const sizeText = (bytes) => (Number(bytes) < 1e6 ? `${Math.round(Number(bytes) / 1e3)} kB` : `${Math.round(Number(bytes) / 1e5) / 10} MB`);

/** @param {{title: string, each: string, minutes: any[]}} props */
function Past({ title, each, minutes }) {
  const total = (/** @type {string} */ key) => minutes.reduce((sum, minute) => sum + Number(minute[key]), 0);
  return html`<section><h2>${title}</h2>
    <div class="two">
      <figure><figcaption>${countText(total("settled"))} runs settled, per ${each}</figcaption>
        <${Bars} name=${`Runs settled per ${each}, ${title}`} tones=${["good"]} bars=${minutes.map((minute) => ({ at: minute.at, values: [minute.settled] }))} /></figure>
      <figure><figcaption>${countText(total("delivered"))} attempts accepted, ${countText(total("failed"))} failed, per ${each}</figcaption>
        <${Bars} name=${`Delivery attempts per ${each}, ${title}`} tones=${["good", "bad"]} bars=${minutes.map((minute) => ({ at: minute.at, values: [minute.delivered, minute.failed] }))} /></figure>
    </div>
    <details><summary>As a table</summary>
      ${tableOf(`Runs settled and delivery attempts per ${each}`, minutes.filter((minute) => minute.settled || minute.delivered || minute.failed), [
        [`Beginning of the ${each}`, (row) => html`<time datetime=${row.at} data-fixed>${clockText(new Date(row.at), "short")}</time>`],
        ...["settled", "delivered", "failed"].map((key) => /** @type {[string, (row: any) => any, string]} */ ([key, (row) => String(row[key]), "number"])),
      ], (row) => row.at)}</details></section>`;
}

export default function Overview() {
  const summary = useData("/v1/summary");
  const events = useData("/v1/events?order=newest&limit=10");
  return html`<${Heading} title="Overview" />
    ${loaded(summary, (/** @type {import("./api.js").Schemas["SummaryAnswer"]} */ data) => html`
      <p class=${`verdict ${data.status === "ok" ? "good" : "bad"}`}><span aria-hidden="true">${data.status === "ok" ? "✓" : "!"}</span><span>${visible(data.sentence)}</span></p>
      ${data.attention.length > 0 && html`<section><h2>Needs attention</h2><ul class="attention">${data.attention.map((/** @type {any} */ one) => html`<li key=${one.kind + one.id}>
        ${stateOf(one.severity)} <a href=${one.kind === "daemon" ? to("nodes") : to(one.kind === "connection" ? "connections" : "endpoints", one.id)}>${one.id}</a>
        <span>${visible(one.sentence)}</span>${one.since && html` <small>since ${timeOf(one.since)}</small>`}</li>`)}</ul></section>`}
      <section><h2>Runs</h2><${Counts} page="runs" filter="status" names=${STATUSES} counts=${data.runs.by_status} /></section>
      <section><h2>Deliveries</h2><${Counts} page="deliveries" filter="state" names=${STATES} counts=${data.deliveries.by_state} />
        ${data.deliveries.oldest_due_at && html`<p>The longest waiting is due since ${timeOf(data.deliveries.oldest_due_at)}.</p>`}</section>
      <${Past} title="Last hour" each="minute" minutes=${data.minutes} /><${Past} title="Last 24 hours" each="hour" minutes=${data.hours} />
      <section><h2>Daemon</h2>${factsOf([["Version", data.version], ["Database", sizeText(data.database_bytes)], ["Counted", timeOf(data.counted_at)]])}</section>`)}
    <section><h2>Last events</h2>
      ${loaded(events, ({ data }) => (data.length
        ? html`<${Table} caption="The last ten events" columns=${eventColumns} rows=${data} />`
        : html`<div class="empty"><p>Nothing has happened yet. Register a run, and its first event appears here:</p><pre tabindex="0">runbridge runs add CONNECTION PROVIDER_RUN_ID</pre></div>`))}</section>`;
}
