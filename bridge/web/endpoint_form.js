/** Adding and editing an endpoint. */
import { html, useState } from "./preact.js";
import { call, post } from "./api.js";
import { Dialog, toast } from "./action.js";
import { refetchAll } from "./live.js";
import { ErrorBox } from "./ui.js";

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
  const choice = (/** @type {string} */ name, /** @type {string} */ label, /** @type {string[]} */ options) => html`<label><span>${label}</span><select name=${name}>${options.map((one) => html`<option key=${one} selected=${was[name] === one}>${one}</option>`)}</select></label>`;
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
