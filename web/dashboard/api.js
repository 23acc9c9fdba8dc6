/**
 * What the page asks of the coordinator. The admin token is kept for this tab alone, and travels in a header, never in an address.
 *
 * @module
 */

const KEY = "perdure-admin-token";

/** An answer that is not the wanted one: what, and how to mend it. */
export class Refusal extends Error {
  /** @param {number} status @param {string} what @param {string} mend */
  constructor(status, what, mend) {
    super(mend ? `${what}: ${mend}` : what);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  /** @param {string} value "" forgets it */
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** @param {string} path @param {RequestInit} [options] @returns {Promise<Response>} */
async function ask(path, options = {}) {
  /** @type {Record<string, string>} */
  const headers = { ...(token.get() ? { Authorization: `Bearer ${token.get()}` } : {}) };
  if (options.body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refusal(response.status, String(told.error ?? `the coordinator answered ${response.status}`), String(told.mend ?? ""));
}

/** @param {string} path */
export async function get(path) {
  return (await ask(path)).json();
}

/** @param {string} path @param {object} [body] */
export async function post(path, body) {
  return (await ask(path, { method: "POST", body: body ? JSON.stringify(body) : undefined })).json();
}

/**
 * Follow a stream of server-sent events until it ends or `signal` says so. EventSource would do, but sends no token.
 *
 * @param {string} path
 * @param {(kind: string, data: any) => void} take
 * @param {AbortSignal} signal
 */
export async function follow(path, take, signal) {
  const response = await ask(path, { signal });
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const blocks = rest.split("\n\n");
    rest = /** @type {string} */ (blocks.pop());
    for (const block of blocks) {
      let kind = "message";
      let data = "";
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) kind = line.slice(7);
        else if (line.startsWith("data: ")) data += line.slice(6);
      }
      if (data) take(kind, JSON.parse(data));
    }
  }
}
