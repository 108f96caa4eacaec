/** Charts as SVG; each has a name, and a page shows its numbers in a table beneath. */
import { html } from "./preact.js";

/**
 * Bars over time, stacked.
 * @param {{name: string, bars: {at: string, values: number[]}[], tones: string[]}} props
 */
export function Bars({ name, bars, tones }) {
  const width = 600, height = 84;
  const top = Math.max(1, ...bars.map((bar) => bar.values.reduce((sum, value) => sum + Number(value), 0)));
  const step = width / Math.max(1, bars.length);
  return html`<svg class="chart" viewBox="0 0 ${width} ${height}" role="img" aria-label=${name} preserveAspectRatio="none">
    <line class="axis" x1="0" x2=${width} y1=${height - 1} y2=${height - 1} />
    ${bars.map((bar, index) => {
      let y = height - 1;
      return bar.values.map((value, layer) => {
        const tall = (Number(value) / top) * (height - 6);
        y -= tall;
        return tall > 0 && html`<rect key=${`${index}-${layer}`} class=${`tone-${tones[layer]}`} x=${index * step + 1} y=${y} width=${Math.max(1, step - 2)} height=${tall} />`;
      });
    })}
  </svg>`;
}

/**
 * How many runs go on for longer than each age, and when such a run is polled.
 * `past` are the ages of a run at its latest polls.
 * @param {{distribution: any, past?: number[]}} props
 */
export function CadencePlot({ distribution, past = [] }) {
  const { cells, planned_polls_s: polls, median_s: median, p90_s: p90 } = distribution;
  const width = 640, height = 260, left = 46, bottom = 44, top = 24;
  const last = Number(cells.at(-1)?.to_s ?? distribution.p99_s);
  const end = Math.min(last * 1.04, Math.max(Number(p90) * 3, Number(median) * 6)) || 1; // the tail would squeeze the rest
  const x = (/** @type {any} */ seconds) => left + (Number(seconds) / end) * (width - left - 10);
  const y = (/** @type {number} */ share) => top + (1 - share) * (height - top - bottom);
  let share = 1;
  const points = [[0, 1], ...(cells.length ? [[cells[0].from_s, 1]] : [])];
  for (const cell of cells) points.push([cell.to_s, (share = Math.max(0, share - Number(cell.share)))]);
  const within = points.filter(([at]) => Number(at) <= end);
  const line = within.map(([at, level]) => `${x(at).toFixed(1)},${y(Number(level)).toFixed(1)}`).join(" ");
  const shown = polls.filter((/** @type {any} */ at) => Number(at) <= end).slice(0, 400);
  const left_ = (/** @type {any} */ at) => points.reduce((level, [from, value]) => (Number(from) <= Number(at) ? Number(value) : level), 1);
  const delays = shown.map((/** @type {any} */ at, /** @type {number} */ index) => {
    const begin = index ? shown[index - 1] : 0;
    return html`<rect key=${at} class=${index % 2 ? "delay" : "delay other"} x=${x(begin)} width=${Math.max(0, x(at) - x(begin))} y=${y(left_(begin))} height=${Math.max(0, y(0) - y(left_(begin)))} />`;
  });
  return html`<svg class="plot" viewBox="0 0 ${width} ${height}" role="img" aria-label="Share of runs that go on, by age, with the planned polls as ticks">
    ${delays}
    ${[0, 0.25, 0.5, 0.75, 1].map((level) => html`<line key=${level} class="grid" x1=${left} x2=${width - 10} y1=${y(level)} y2=${y(level)} /><text x=${left - 6} y=${y(level) + 4} text-anchor="end">${level * 100}%</text>`)}
    <polyline class="survival" points=${line} />
    ${[["median", median, 0], ["p90", p90, 0]].map(([label, at]) => html`<line key=${label} class="mark" x1=${x(at)} x2=${x(at)} y1=${top} y2=${y(0)} /><text x=${x(at)} y=${top - 8} text-anchor="middle">${label}</text>`)}
    ${shown.map((/** @type {any} */ at) => html`<line key=${at} class="tick" x1=${x(at)} x2=${x(at)} y1=${y(0)} y2=${y(0) + 9} />`)}
    ${past.filter((at) => at >= 0 && at <= end).map((at) => html`<line key=${`past ${at}`} class="tick past" x1=${x(at)} x2=${x(at)} y1=${y(0) - 9} y2=${y(0)} />`)}
    ${[0, 0.25, 0.5, 0.75, 1].map((part) => html`<text key=${part} x=${left + part * (width - left - 10)} y=${height - 10} text-anchor=${part === 1 ? "end" : "middle"}>${secondsText(part * end)}</text>`)}
  </svg>`;
}

/** @param {any} seconds */
export function secondsText(seconds) {
  const value = Number(seconds);
  if (value < 120) return `${Math.round(value * 100) / 100} s`;
  return value < 7200 ? `${Math.round(value / 6) / 10} min` : `${Math.round(value / 360) / 10} h`;
}

/**
 * What happened to a run, on a line.
 * @param {{marks: {at: string, tone: string, label: string, isAttempt?: boolean}[]}} props
 */
export function Timeline({ marks }) {
  const times = marks.map((mark) => Date.parse(mark.at));
  const first = Math.min(...times);
  const span = Math.max(1, Math.max(...times) - first);
  const x = (/** @type {number} */ at) => 12 + ((at - first) / span) * 616;
  return html`<svg class="chart timeline" viewBox="0 0 640 46" role="img" aria-label="Timeline; the table beneath says the same">
    <line class="axis" x1="12" x2="628" y1="20" y2="20" />
    ${marks.map((mark, index) => html`<g key=${index}><title>${mark.label}</title>${mark.tone === "event"
      ? html`<rect class="tone-event" x=${x(times[index]) - 4} y="26" width="8" height="8" />`
      : mark.isAttempt ? html`<path class=${`tone-${mark.tone}`} d=${`M${x(times[index]) - 5} 45h10l-5-9z`} />`
      : mark.tone === "poll"
        ? html`<line class="tick" x1=${x(times[index])} x2=${x(times[index])} y1="8" y2="20" />`
        : html`<circle class=${`tone-${mark.tone}`} cx=${x(times[index])} cy="20" r="6" />`}</g>`)}
  </svg>`;
}
