/** Numbers and times for people. @module */

/** @param {number | null | undefined} value @param {string} [unit] */
export function number(value, unit = "") {
  if (value === null || value === undefined) return "–";
  const text = Number.isInteger(value) || value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(value < 10 ? 2 : 1);
  return unit ? `${text} ${unit}` : text;
}

/** @param {number | null | undefined} value bytes a second */
export function rate(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B/s", "kB/s", "MB/s", "GB/s"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  return `${at ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

/** @param {number} ms since 1970 */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}
