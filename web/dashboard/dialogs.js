/**
 * What can be done, each thing with a confirmation: zones, members and players opened for a closer look, the admin token.
 *
 * @module
 */

import { get, post, Refusal, token } from "./api.js";
import { byId, element } from "./dom.js";
import { clock, number, rate } from "./format.js";

export class Dialogs {
  /** @param {{access: () => {token: boolean, development: boolean, add_shard: boolean}, tokenChanged: () => Promise<void>, picture: () => any}} on */
  constructor(on) {
    this.on = on;
    this.at = /** @type {HTMLDialogElement} */ (byId("dialog"));
    this.at.addEventListener("click", (event) => event.target === this.at && this.at.close());
  }

  /**
   * @param {string} title
   * @param {(Node | string)[]} body
   * @param {HTMLElement[]} buttons
   */
  #open(title, body, buttons) {
    const fault = element("p", { class: "bad", role: "alert" });
    const close = element("button", { type: "button", onclick: () => this.at.close() }, "Close");
    const form = element("div", { class: "sheet" }, element("h3", { id: "dialog-title", text: title }), ...body, fault);
    form.append(element("div", { class: "row buttons" }, ...buttons, close));
    this.at.replaceChildren(form);
    if (!this.at.open) this.at.showModal();
    return fault;
  }

  /** Ask, then do. @param {string} question @param {string} detail @param {string} verb @param {() => Promise<unknown>} work */
  confirm(question, detail, verb, work) {
    if (!this.on.access().token) return this.askToken(() => this.confirm(question, detail, verb, work));
    const go = element("button", { type: "button", class: "danger", "data-confirm": true }, verb);
    const fault = this.#open(question, [element("p", { class: "muted", text: detail })], [go]);
    go.addEventListener("click", async () => {
      /** @type {HTMLButtonElement} */ (go).disabled = true;
      try {
        await work();
        this.at.close();
      } catch (error) {
        fault.textContent = error instanceof Error ? error.message : String(error);
        /** @type {HTMLButtonElement} */ (go).disabled = false;
      }
    });
    go.focus();
  }

  /** @param {() => void} [then] what was wanted when the token was missing */
  askToken(then) {
    const input = /** @type {HTMLInputElement} */ (element("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false" }));
    const take = element("button", { type: "button", class: "primary" }, "Use it");
    const forget = element("button", { type: "button", onclick: () => this.#useToken("", fault) }, "Forget it");
    const text = "PERDURE_ADMIN_TOKEN of the coordinators; `perdure up` prints its own. It is kept until this tab is closed.";
    const body = [element("p", { class: "muted", text }), element("label", { for: "token", text: "Admin token" }), input];
    const fault = this.#open("Admin token", body, token.get() ? [take, forget] : [take]);
    const use = () => this.#useToken(input.value.trim(), fault, then);
    take.addEventListener("click", use);
    input.addEventListener("keydown", (event) => event.key === "Enter" && use());
    input.focus();
  }

  /** @param {string} value @param {HTMLElement} fault @param {() => void} [then] */
  async #useToken(value, fault, then) {
    token.set(value);
    try {
      await this.on.tokenChanged();
    } catch (error) {
      fault.textContent = String(error);
      return;
    }
    if (value && !this.on.access().token) {
      token.set("");
      fault.textContent = "that is not this coordinator's admin token";
      return;
    }
    this.at.close();
    then?.();
  }

  /** @param {[string, unknown][]} facts */
  #facts(facts) {
    const list = element("dl", { class: "facts" });
    for (const [name, value] of facts) list.append(element("dt", { text: name }), element("dd", { class: "mono", text: value ?? "–" }));
    return list;
  }

  // --- zones and members ----------------------------------------------------------------------------------------------

  /** @param {number} number_ @param {any} zone @param {string[]} shards names of those that could take it */
  zone(number_, zone, shards) {
    const choice = /** @type {HTMLSelectElement} */ (element("select", { id: "target" }));
    const others = shards.filter((name) => name !== zone.owner);
    for (const name of others) choice.append(element("option", { value: name, text: name }));
    const move = element("button", { type: "button", onclick: () => this.migrate(number_, choice.value) }, "Move…");
    const facts = this.#facts([
      ["shard", zone.owner || "nobody"], ["players", zone.players], ["epoch", zone.epoch], ["generation", zone.generation], ["tick", zone.tick],
      ["moving to", zone.successor || "–"], ["pace", `${zone.pace ?? 100} %`], ["a tick costs", number(zone.tick_ms, "ms")],
    ]);
    const body = others.length ? [facts, element("label", { for: "target", text: "Move it, live, to" }), choice] : [facts];
    this.#open(`Zone ${number_}`, body, others.length ? [move] : []);
  }

  /** @param {number} zone @param {string} shard */
  migrate(zone, shard) {
    const work = () => post(`/zones/${zone}/migrate`, { shard });
    this.confirm(`Move zone ${zone} to ${shard}?`, "The successor catches up first; players stay connected and notice next to nothing.", "Move it", work);
  }

  /** @param {any} member @param {"shard" | "gateway" | "coordinator"} kind */
  member(member, kind) {
    const { name } = member;
    const path = `/members/${encodeURIComponent(name)}`;
    const facts = this.#facts([
      ["kind", kind], ["state", member.state], ["host", member.host], ["pid", member.pid],
      ...(kind === "shard"
        ? /** @type {[string, unknown][]} */ ([["zones", member.zones], ["players", member.players], ["tick p99", number(member.tick_ms.p99, "ms")], ["build", member.build]])
        : []),
      ...(kind === "gateway" ? /** @type {[string, unknown][]} */ ([["players", member.players], ["address", member.url], ["out", rate(member.bytes_s)]]) : []),
      ...(kind === "coordinator" ? /** @type {[string, unknown][]} */ ([["role", member.leading ? "leads" : "stands by"], ["address", member.admin]]) : []),
    ]);
    const button = (/** @type {string} */ text, /** @type {() => void} */ work, kind_ = "") => element("button", { type: "button", class: kind_, onclick: work }, text);
    const leaves = kind === "shard" ? "Its zones move away, live; then it leaves." : "It closes in order, and leaves.";
    const buttons = [button("Drain…", () => this.confirm(`Drain ${name}?`, leaves, "Drain it", () => post(`${path}/drain`)))];
    if (kind === "shard" && member.state === "draining") {
      const detail = "It keeps the zones that it has. A shard that has seen the mark leaves all the same.";
      buttons[0] = button("Undrain…", () => this.confirm(`Keep ${name}?`, detail, "Undrain it", () => post(`${path}/undrain`)));
    }
    if (this.on.access().development) {
      const pause = "Its process is stopped (SIGSTOP) for five seconds, as if it hung; its zones go on elsewhere after a second.";
      buttons.push(
        button("Pause…", () => this.confirm(`Pause ${name} for 5 s?`, pause, "Pause it", () => post(`${path}/pause?ms=5000`)), "danger"),
        button("Kill…", () => this.confirm(`Kill ${name}?`, "Its process ends at once (SIGKILL), as in a crash.", "Kill it", () => post(`${path}/kill`)), "danger"),
      );
    }
    this.#open(name, [facts], buttons);
  }

  addShard() {
    this.confirm("Add a shard?", "`perdure up` starts one more; zones move to it by themselves.", "Add it", () => post("/shards"));
  }

  // --- players --------------------------------------------------------------------------------------------------------

  /** @param {string} name */
  async player(name) {
    const path = `/players/${encodeURIComponent(name)}`;
    const fault = this.#open(name, [element("p", { class: "muted", text: "looking…" })], []);
    let found;
    try {
      found = await get(path);
    } catch (error) {
      fault.textContent = error instanceof Refusal ? error.message : "the coordinator cannot be reached";
      return;
    }
    const facts = this.#facts([
      ["zone", found.online ? found.zone : "in the lobby"],
      ["place", found.at ? `${found.at.x.toFixed(1)}, ${found.at.y.toFixed(1)} at tick ${found.at.tick}` : "–"],
      ["gateway", found.attached ? found.gateway : "away"], ["session", found.session],
      ["since", found.since_ms ? clock(found.since_ms) : "–"], ["home zone", found.home_zone], ["saved", `${found.saved_bytes} bytes`],
    ]);
    const detail = "The player is logged out and the socket closed (4015). Whatever they have is saved.";
    const kick = () => this.confirm(`Disconnect ${name}?`, detail, "Disconnect", () => post(`${path}/kick`));
    const button = element("button", { type: "button", class: "danger", onclick: kick }, "Disconnect…");
    this.#open(name, [facts], found.online ? [button] : []);
  }
}
