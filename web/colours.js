/**
 * The colour of a shard, the same on every page: by the number at the end of its name, or by a hash of the name.
 *
 * @module
 */

/** Far apart in hue, of like brightness on a dark ground. */
const PALETTE = ["#5cc8ff", "#ff9f5c", "#7ee08a", "#d08cff", "#ffd75c", "#ff6f91", "#53e3d4", "#a3b4ff", "#c6e35a", "#ff8ad8", "#8fb8de", "#e0b080"];
const NOBODY = "#44506a";

/**
 * @param {string} name name of a shard; "" for a zone that nobody runs
 * @returns {string} a colour for CSS or a canvas
 */
export function ownerColour(name) {
  if (!name) return NOBODY;
  const number = /(\d+)$/.exec(name);
  if (number) return PALETTE[(Number(number[1]) - 1 + PALETTE.length) % PALETTE.length];
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + /** @type {number} */ (letter.codePointAt(0))) >>> 0;
  return PALETTE[hash % PALETTE.length];
}
