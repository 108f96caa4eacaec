/** What this browser remembers: the theme, the time zone, and whether single keys act. */

/** @param {string} name @returns {string | null} */
export function recall(name) {
  try {
    return localStorage.getItem(`runbridge.${name}`);
  } catch {
    return null; // storage is switched off
  }
}

/** @param {string} name @param {string | null} value */
export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(`runbridge.${name}`);
    else localStorage.setItem(`runbridge.${name}`, value);
  } catch {
    // storage is switched off
  }
}

let zone = recall("zone");

/** Whether times are shown in UTC instead of this computer's zone. */
export const isUtc = () => zone === "UTC";

export function toggleZone() {
  zone = isUtc() ? null : "UTC";
  remember("zone", zone);
}

/** This computer's zone, or UTC. */
export const zoneName = () => zone ?? Intl.DateTimeFormat().resolvedOptions().timeZone;

/** @param {string | null} theme */
function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}
setTheme(recall("theme"));

export function toggleTheme() {
  const isDark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(isDark ? "light" : "dark");
  remember("theme", isDark ? "light" : "dark");
}
