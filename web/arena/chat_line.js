/**
 * What a typed line means: to whom it goes, or why it goes to nobody. Pure: no page, no socket.
 *
 * A line goes to the zone. `/w name text` goes to one player, `/r text` to whoever whispered last.
 *
 * @module
 */

/** Characters that the gateway takes in one line; a longer one would end the connection, as a name that is none would. */
export const MAX_TEXT = 200;
const NAME = /^[A-Za-z0-9_.-]{1,32}$/;
const WHISPER = new Set(["w", "whisper", "tell", "t", "msg", "m"]);
const REPLY = new Set(["r", "reply"]);
const HELP = "/w name text speaks to one player, /r text answers the last one";

/**
 * @typedef {{to: string, text: string}} Meant `to` "": the zone
 * @param {string} typed @param {string} [whisperer] who whispered last, "" for nobody
 * @returns {Meant | {fault: string} | null} null for nothing at all
 */
export function meaning(typed, whisperer = "") {
  const line = typed.trim();
  if (!line) return null;
  if (!line.startsWith("/")) return bounded("", line);
  const [, verb, rest] = /** @type {RegExpExecArray} */ (/^\/(\S*)\s*([^]*)$/.exec(line));
  if (REPLY.has(verb.toLowerCase())) {
    if (!whisperer) return { fault: "Nobody has whispered to you yet." };
    return rest ? bounded(whisperer, rest) : { fault: "Nothing to say: /r text" };
  }
  if (!WHISPER.has(verb.toLowerCase())) return { fault: `There is no /${verb.slice(0, 20)}: ${HELP}.` };
  const [, name, text] = /** @type {RegExpExecArray} */ (/^(\S*)\s*([^]*)$/.exec(rest));
  if (!name || !text) return { fault: "A whisper needs a name and a text: /w name text" };
  if (!NAME.test(name)) return { fault: `${name.slice(0, 40)} is no player's name.` };
  return bounded(name, text);
}

/** @param {string} to @param {string} text */
function bounded(to, text) {
  const length = [...text].length;
  return length > MAX_TEXT ? { fault: `That is ${length} characters; a line has ${MAX_TEXT} at most.` } : { to, text };
}
