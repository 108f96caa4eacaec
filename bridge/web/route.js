/** Addresses: a page, perhaps the id of one thing, and filters, all behind the hash so that the server sees none. */
import { useEffect, useState } from "./preact.js";
import { withQuery } from "./api.js";

/** `address` is the hash that the rest was read from. @typedef {{page: string, id: string | null, query: Record<string, string>, address: string}} Route */

/** @returns {Route} */
export function readRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "", ...rest] = path.split("/");
  let id = null;
  try {
    id = rest.length ? decodeURIComponent(rest.join("/")) : null;
  } catch {
    id = rest.join("/");
  }
  return { page: page || "overview", id, query: Object.fromEntries(new URLSearchParams(query)), address: location.hash };
}

/**
 * The address of a page.
 * @param {string} page
 * @param {string | null} [id]
 * @param {Record<string, any>} [query]
 */
export function to(page, id, query = {}) {
  return withQuery(`#/${page}${id ? `/${encodeURIComponent(id)}` : ""}`, query);
}

/** The parameters of an address that are no filters. */
const NO_FILTERS = ["cursor", "limit", "follow", "show"];

/** The filters in an address, each with its value. @param {Route} route */
export const filtersOf = ({ query }) => Object.entries(query).filter(([name]) => !NO_FILTERS.includes(name));

/** @param {string} address */
export function go(address) {
  location.hash = address;
}

/** The route, followed as it changes. */
export function useRoute() {
  const [route, setRoute] = useState(readRoute);
  useEffect(() => {
    const follow = () => setRoute(readRoute());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}

/**
 * The present address with other filters; the cursor goes, because it belongs to the old ones.
 * @param {Route} route
 * @param {Record<string, any>} changes
 */
export function withFilters(route, changes) {
  return to(route.page, route.id, { ...route.query, cursor: "", ...changes });
}
