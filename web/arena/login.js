/**
 * How the page gets a login: a token in the location's hash (from a login service), or in development one from the gateway, by name.
 *
 * A token in the hash never reaches a server's log, and is taken out of the address at once. The resume token is kept for this tab.
 *
 * @module
 */

const RESUME = "perdure.resume";
const NAME = "perdure.name";

export class Login {
  constructor() {
    const hash = new URLSearchParams(location.hash.slice(1));
    this.given = hash.get("token") ?? "";
    if (this.given) history.replaceState(null, "", location.pathname + location.search);
    this.byName = false;
  }

  /** Ask the gateway whether a name is enough here. */
  async prepare() {
    const answer = await fetch("/client.json", { cache: "no-store" });
    this.byName = answer.ok && (await answer.json()).login === "name";
  }

  get resume() {
    return sessionStorage.getItem(RESUME) ?? "";
  }

  /** @param {string} token "" to forget it */
  keep(token) {
    if (token) sessionStorage.setItem(RESUME, token);
    else sessionStorage.removeItem(RESUME);
  }

  get name() {
    return localStorage.getItem(NAME) ?? `pilot-${Math.floor(1000 + Math.random() * 9000)}`;
  }

  /** A login token. Throws an Error whose message is for the player. @param {string} name @returns {Promise<string>} */
  async token(name) {
    if (this.given) {
      const token = this.given;
      this.given = "";
      return token;
    }
    if (!this.byName) throw new Error("Your login has ended. Log in again where you came from.");
    localStorage.setItem(NAME, name);
    const answer = await fetch(`/dev/token?name=${encodeURIComponent(name)}`, { cache: "no-store" });
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(said.error ?? `The gateway gave no login (${answer.status}).`);
    return said.token;
  }
}
