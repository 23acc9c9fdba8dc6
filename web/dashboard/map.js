/**
 * The map of the world: a cell a zone, coloured by its shard, as bright as it is full; below it the shards, and arrows for what moves.
 *
 * A cell can be dragged onto a shard, and is reached and opened by keyboard too. What then happens is the caller's business.
 *
 * @module
 */

import { ownerColour } from "../colours.js";
import { element, say, svg } from "./dom.js";
import { number } from "./format.js";

const ARROW_MS = 6000;
const GHOST_MS = 10_000;
const MOST_ARROWS = 40;
const MOST_LABELLED = 256;
const DRAG_PX = 6;

/** @typedef {{zone: number, owner: string, epoch: number, generation: number, tick: number, players: number, successor: string,
 *   pace: number | null}} Zone */

export class WorldMap {
  /**
   * @param {{stage: HTMLElement, map: HTMLElement, legend: HTMLElement, arrows: Element}} at
   * @param {{openZone: (zone: number) => void, openShard: (name: string) => void, drop: (zone: number, shard: string) => void, mayDrag: () => boolean}} on
   */
  constructor(at, on) {
    this.at = at;
    this.on = on;
    /** @type {HTMLElement[]} */
    this.cells = [];
    /** @type {Map<string, HTMLElement>} */
    this.chips = new Map();
    /** @type {Map<string, number>} */
    this.goneAt = new Map();
    this.columns = 0;
    this.focused = 0;
    at.map.addEventListener("keydown", (event) => this.#key(/** @type {KeyboardEvent} */ (event)));
    at.map.addEventListener("pointerdown", (event) => this.#press(/** @type {PointerEvent} */ (event)));
  }

  /** @param {{columns: number, rows: number}} world @param {Zone[]} zones @param {any[]} shards @param {number} budgetMs */
  draw(world, zones, shards, budgetMs) {
    if (zones.length !== this.cells.length || world.columns !== this.columns) this.#build(world, zones.length);
    const most = Math.max(1, ...zones.map((zone) => zone.players));
    const tickOf = new Map(shards.map((shard) => [shard.name, shard.tick_ms.p99]));
    zones.forEach((zone, index) => this.#cell(this.cells[index], zone, most, budgetMs, tickOf.get(zone.owner)));
    this.#legend(shards);
  }

  /** @param {{columns: number, rows: number}} world @param {number} count */
  #build(world, count) {
    this.columns = Math.max(1, world.columns);
    this.focused = 0;
    this.at.map.style.setProperty("--columns", String(this.columns));
    this.at.map.classList.toggle("dense", this.columns > 8);
    this.at.map.classList.toggle("bare", count > MOST_LABELLED);
    this.cells = Array.from({ length: count }, (_, zone) =>
      element(
        "button",
        { type: "button", class: "zone", tabindex: zone ? -1 : 0, "data-zone": zone, onclick: () => this.#clicked(zone) },
        element("span", { class: "id mono", text: zone }),
        element("span", { class: "count mono" }),
        element("span", { class: "epoch mono" }),
        element("span", { class: "load" }),
      ),
    );
    this.at.map.replaceChildren(...this.cells);
  }

  /** @param {HTMLElement} cell @param {Zone} zone @param {number} most @param {number} budgetMs @param {number | undefined} shardTick */
  #cell(cell, zone, most, budgetMs, shardTick) {
    const [, count, epoch, load] = cell.children;
    const tick = shardTick ?? 0; // zones of one shard tick together
    const share = Math.min(1, tick / budgetMs);
    cell.style.setProperty("--owner", ownerColour(zone.owner));
    cell.style.setProperty("--density", (0.16 + 0.62 * (zone.players / most)).toFixed(3));
    cell.style.setProperty("--load", `${(share * 100).toFixed(1)}%`);
    cell.classList.toggle("nobody", !zone.owner);
    cell.classList.toggle("moving", Boolean(zone.successor));
    load.classList.toggle("over", tick > budgetMs);
    load.classList.toggle("near", tick > budgetMs * 0.6);
    say(count, String(zone.players));
    say(epoch, zone.pace !== null && zone.pace < 100 ? `${Math.round(zone.pace)} %` : `e${zone.epoch}`);
    const moving = zone.successor ? `, moving to ${zone.successor}` : "";
    const label = `Zone ${zone.zone}, ${zone.owner || "run by nobody"}, ${zone.players} players, epoch ${zone.epoch}${moving}`;
    if (cell.getAttribute("aria-label") !== label) cell.setAttribute("aria-label", label);
    if (cell.title !== label) cell.title = `${label}\nits shard's tick, p99: ${number(tick, "ms")} of ${number(budgetMs, "ms")}`;
  }

  /** @param {any[]} shards */
  #legend(shards) {
    const now = performance.now();
    const there = new Map(shards.map((shard) => [shard.name, shard]));
    for (const [name, chip] of this.chips) {
      if (there.has(name)) continue;
      const goneAt = this.goneAt.get(name) ?? now;
      this.goneAt.set(name, goneAt);
      chip.classList.add("gone");
      if (now - goneAt > GHOST_MS) {
        chip.remove();
        this.chips.delete(name);
        this.goneAt.delete(name);
      }
    }
    for (const shard of shards) {
      let chip = this.chips.get(shard.name);
      if (!chip) {
        chip = element(
          "button",
          { type: "button", class: "shard", "data-shard": shard.name, onclick: () => this.on.openShard(shard.name) },
          element("span", { class: "dot" }),
          element("span", { class: "name", text: shard.name }),
          element("span", { class: "told mono" }),
        );
        chip.style.setProperty("--owner", ownerColour(shard.name));
        this.chips.set(shard.name, chip);
        this.at.legend.append(chip);
      }
      this.goneAt.delete(shard.name);
      chip.title = `${shard.name}: ${shard.zones} zones, ${shard.players} players`;
      const state = shard.paused ? "paused" : shard.state;
      chip.classList.remove("gone");
      chip.classList.toggle("unwell", state !== "ready");
      say(chip.children[2], state === "ready" ? number(shard.players) : state);
    }
  }

  // --- what moves ---------------------------------------------------------------------------------------------------

  /** Show zones going from one shard to another. @param {[number, string, string][]} moves @param {"failover" | "migrated" | "migrating"} kind */
  show(moves, kind) {
    /** @type {Map<string, [string, string, number]>} */
    const pairs = new Map();
    for (const [zone, from, to] of moves) {
      const pair = pairs.get(`${from}\n${to}`) ?? [from, to, 0];
      pair[2] += 1;
      pairs.set(`${from}\n${to}`, pair);
      if (kind !== "migrating") this.#flash(zone, kind);
    }
    for (const [from, to, count] of pairs.values()) this.#arrow(from, to, count, kind);
  }

  /** @param {number} zone @param {string} kind */
  #flash(zone, kind) {
    const cell = this.cells[zone];
    if (!cell) return;
    cell.classList.remove("flash-failover", "flash-migrated");
    void cell.offsetWidth; // begin the animation anew where it is still going on
    cell.classList.add(`flash-${kind}`);
    setTimeout(() => cell.classList.remove(`flash-${kind}`), ARROW_MS);
  }

  /** @param {string} from @param {string} to @param {number} count @param {string} kind */
  #arrow(from, to, count, kind) {
    const [start, end] = [this.chips.get(from), this.chips.get(to)];
    if (!start || !end || start === end) return;
    const stage = this.at.stage.getBoundingClientRect();
    const [a, b] = [start.getBoundingClientRect(), end.getBoundingClientRect()];
    const [x1, y1] = [a.left + a.width / 2 - stage.left, a.top - stage.top];
    const [x2, y2] = [b.left + b.width / 2 - stage.left, b.top - stage.top - 5];
    const lift = 46 + Math.abs(x2 - x1) * 0.28;
    const [mx, my] = [(x1 + x2) / 2, Math.min(y1, y2) - lift];
    const group = svg("g", { class: `arrow ${kind}` });
    group.append(
      svg("path", { d: `M${x1} ${y1}Q${mx} ${my} ${x2} ${y2}`, class: "shaft", "stroke-width": Math.min(6, 1.5 + count * 0.5) }),
      svg("path", { d: `M${x2 - 5} ${y2 - 7}L${x2} ${y2 + 2}L${x2 + 5} ${y2 - 7}Z`, class: "head" }),
      svg("text", { x: mx, y: (Math.min(y1, y2) + my) / 2 - 5, text: count === 1 ? "1 zone" : `${count} zones` }),
    );
    this.at.arrows.append(group);
    setTimeout(() => group.remove(), ARROW_MS);
    while (this.at.arrows.childElementCount > MOST_ARROWS) this.at.arrows.firstElementChild?.remove();
  }

  // --- keyboard and pointer -------------------------------------------------------------------------------------------

  /** @param {KeyboardEvent} event */
  #key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
    const step = steps[/** @type {keyof typeof steps} */ (event.key)];
    if (step === undefined) return;
    event.preventDefault();
    const next = this.focused + step;
    if (next >= 0 && next < this.cells.length) this.#focus(next);
  }

  /** @param {number} zone */
  #focus(zone) {
    this.cells[this.focused]?.setAttribute("tabindex", "-1");
    this.focused = zone;
    this.cells[zone].setAttribute("tabindex", "0");
    this.cells[zone].focus();
  }

  /** @param {number} zone */
  #clicked(zone) {
    if (this.dragged) return;
    this.#focus(zone);
    this.on.openZone(zone);
  }

  /** @param {PointerEvent} event */
  #press(event) {
    const cell = /** @type {HTMLElement} */ (event.target).closest("[data-zone]");
    this.dragged = false;
    if (!cell || event.button !== 0 || event.pointerType === "touch" || !this.on.mayDrag()) return;
    const zone = Number(/** @type {HTMLElement} */ (cell).dataset.zone);
    const [startX, startY] = [event.clientX, event.clientY];
    const label = element("div", { class: "dragged mono", text: `zone ${zone}` });
    /** @type {HTMLElement | null} */
    let target = null;
    const move = (/** @type {PointerEvent} */ at) => {
      if (!this.dragged && Math.hypot(at.clientX - startX, at.clientY - startY) < DRAG_PX) return;
      if (!this.dragged) document.body.append(label);
      this.dragged = true;
      label.style.setProperty("left", `${at.clientX + 12}px`);
      label.style.setProperty("top", `${at.clientY + 12}px`);
      const under = document.elementFromPoint(at.clientX, at.clientY)?.closest("[data-shard]");
      target?.classList.remove("target");
      target = /** @type {HTMLElement | null} */ (under ?? null);
      target?.classList.add("target");
    };
    const end = (/** @type {PointerEvent} */ at) => {
      window.removeEventListener("pointermove", move);
      window.removeEventListener("pointerup", end);
      window.removeEventListener("pointercancel", end);
      label.remove();
      target?.classList.remove("target");
      if (this.dragged && target && at.type === "pointerup") this.on.drop(zone, String(target.dataset.shard));
      setTimeout(() => (this.dragged = false), 0); // the click that follows a drag is none
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", end);
    window.addEventListener("pointercancel", end);
  }
}
