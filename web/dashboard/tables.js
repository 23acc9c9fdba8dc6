/**
 * Tables that are sorted by a click on a heading and keep their rows from one picture to the next; players come page by page.
 *
 * @module
 */

import { ownerColour } from "../colours.js";
import { get } from "./api.js";
import { byId, element, say } from "./dom.js";
import { number, rate } from "./format.js";

const PAGE = 50;
const MOST_ROWS = 300;
const PLAYERS_EVERY_MS = 2000;

/** @typedef {{name: string, label: string, right?: boolean, minor?: boolean, owner?: boolean, show?: (row: any) => string, sort?: (row: any) => number | string,
 *   remote?: boolean}} Column */

/** @type {Record<string, {label: string, key: string, columns: Column[]}>} */
const TABLES = {
  shards: {
    label: "Shards", key: "name", columns: [
      { name: "name", label: "shard", owner: true },
      { name: "state", label: "state", show: (row) => (row.paused ? "paused" : row.state) + (row.failed.length ? `, cannot run ${row.failed.join(" ")}` : "") },
      { name: "zones", label: "zones", right: true },
      { name: "players", label: "players", right: true },
      { name: "p50", label: "tick p50 ms", right: true, minor: true, sort: (row) => row.tick_ms.p50 ?? -1, show: (row) => number(row.tick_ms.p50) },
      { name: "p99", label: "tick p99 ms", right: true, sort: (row) => row.tick_ms.p99 ?? -1, show: (row) => number(row.tick_ms.p99) },
      { name: "commit", label: "commit p99 ms", right: true, minor: true, sort: (row) => row.commit_ms.p99 ?? -1, show: (row) => number(row.commit_ms.p99) },
      { name: "bytes_s", label: "out", right: true, show: (row) => rate(row.bytes_s) },
      { name: "host", label: "host", minor: true },
      { name: "pid", label: "pid", right: true, minor: true, show: (row) => String(row.pid ?? "–") },
      { name: "build", label: "build", minor: true, show: (row) => row.build.slice(0, 8) },
    ],
  },
  zones: {
    label: "Zones", key: "zone", columns: [
      { name: "zone", label: "zone", right: true },
      { name: "owner", label: "shard", owner: true, show: (row) => row.owner || "nobody" },
      { name: "players", label: "players", right: true },
      { name: "tick_ms", label: "tick ms", right: true, sort: (row) => row.tick_ms ?? -1, show: (row) => number(row.tick_ms) },
      { name: "pace", label: "pace", right: true, minor: true, sort: (row) => row.pace ?? 100, show: (row) => (row.pace === null ? "100 %" : `${row.pace} %`) },
      { name: "epoch", label: "epoch", right: true },
      { name: "generation", label: "gen.", right: true, minor: true },
      { name: "tick", label: "tick", right: true, minor: true },
      { name: "successor", label: "moving to" },
    ],
  },
  gateways: {
    label: "Gateways", key: "name", columns: [
      { name: "name", label: "gateway" },
      { name: "state", label: "state" },
      { name: "players", label: "players", right: true },
      { name: "links", label: "links", right: true, minor: true, show: (row) => number(row.links) },
      { name: "frames_s", label: "frames/s", right: true, show: (row) => number(row.frames_s) },
      { name: "commands_s", label: "commands/s", right: true, minor: true, show: (row) => number(row.commands_s) },
      { name: "bytes_s", label: "out", right: true, show: (row) => rate(row.bytes_s) },
      { name: "url", label: "address", minor: true },
      { name: "pid", label: "pid", right: true, minor: true, show: (row) => String(row.pid ?? "–") },
    ],
  },
  coordinators: {
    label: "Coordinators", key: "name", columns: [
      { name: "name", label: "coordinator" },
      { name: "state", label: "state" },
      { name: "leading", label: "role", show: (row) => (row.leading ? "leads" : "stands by") },
      { name: "admin", label: "address" },
      { name: "pid", label: "pid", right: true, minor: true, show: (row) => String(row.pid ?? "–") },
    ],
  },
  players: {
    label: "Players", key: "name", columns: [
      { name: "name", label: "player", remote: true },
      { name: "zone", label: "zone", right: true, remote: true },
      { name: "gateway", label: "gateway", remote: true, show: (row) => (row.attached ? row.gateway || "a gateway that left" : "away") },
      { name: "session", label: "session", right: true, minor: true, remote: true },
    ],
  },
};

export class Tables {
  /** @param {{open: (kind: string, key: string | number) => void, failed: (error: unknown) => void}} on */
  constructor(on) {
    this.on = on;
    this.at = byId("table");
    this.pager = byId("pager");
    this.filter = /** @type {HTMLInputElement} */ (byId("filter"));
    /** @type {Record<string, any[]>} */
    this.rows = { shards: [], zones: [], gateways: [], coordinators: [], players: [] };
    this.kind = "shards";
    this.sort = { name: "", down: false };
    this.page = { offset: 0, count: 0, asked: 0 };
    /** @type {Map<string | number, HTMLElement>} */
    this.lines = new Map();
    this.body = element("tbody");
    this.tabs = Object.entries(TABLES).map(([kind, { label }]) =>
      element("button", { type: "button", role: "tab", class: "tab", "data-kind": kind, onclick: () => this.choose(kind) }, label),
    );
    byId("tabs").append(...this.tabs);
    byId("tabs").addEventListener("keydown", (event) => this.#key(/** @type {KeyboardEvent} */ (event)));
    this.filter.addEventListener("input", () => this.#changed());
    this.info = element("span", { class: "muted mono" });
    this.back = element("button", { type: "button", class: "small", onclick: () => this.#turn(-PAGE) }, "Previous");
    this.next = element("button", { type: "button", class: "small", onclick: () => this.#turn(PAGE) }, "Next");
    this.pager.append(this.info, this.back, this.next);
    this.choose("shards");
    setInterval(() => this.kind === "players" && !document.hidden && this.#ask(), PLAYERS_EVERY_MS);
  }

  /** @param {string} kind */
  choose(kind) {
    this.kind = kind;
    this.sort = { name: TABLES[kind].columns[0].name, down: false };
    this.page = { offset: 0, count: 0, asked: this.page.asked };
    for (const tab of this.tabs) {
      const chosen = tab.dataset.kind === kind;
      tab.setAttribute("aria-selected", String(chosen));
      tab.setAttribute("tabindex", chosen ? "0" : "-1");
    }
    this.filter.value = "";
    this.#head();
    this.#changed();
  }

  /** @param {Record<string, any[]>} rows */
  draw(rows) {
    Object.assign(this.rows, rows);
    for (const tab of this.tabs) {
      const kind = String(tab.dataset.kind);
      const count = kind === "players" ? rows.playerCount?.[0] ?? 0 : this.rows[kind].length;
      say(tab, `${TABLES[kind].label} ${number(count)}`);
    }
    if (this.kind !== "players") this.#fill();
  }

  #head() {
    const heads = TABLES[this.kind].columns.map((column) => {
      const button = element("button", { type: "button", class: "sort", onclick: () => this.#sortBy(column.name) }, column.label);
      return element("th", { scope: "col", class: classes(column), "data-name": column.name }, button);
    });
    this.body = element("tbody");
    this.lines.clear();
    this.at.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...heads)), this.body));
    this.#mark();
  }

  #mark() {
    for (const head of this.at.querySelectorAll("th")) {
      if (head.dataset.name === this.sort.name) head.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  /** @param {string} name */
  #sortBy(name) {
    this.sort = { name, down: this.sort.name === name && !this.sort.down };
    this.page.offset = 0;
    this.#mark();
    this.#changed();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const at = this.tabs.findIndex((tab) => tab.dataset.kind === this.kind);
    const tab = this.tabs[(at + step + this.tabs.length) % this.tabs.length];
    this.choose(String(tab.dataset.kind));
    tab.focus();
  }

  #changed() {
    this.pager.hidden = this.kind !== "players";
    if (this.kind === "players") {
      this.page.offset = 0;
      void this.#ask();
    } else this.#fill();
  }

  /** @param {number} step */
  #turn(step) {
    this.page.offset = Math.max(0, this.page.offset + step);
    void this.#ask();
  }

  async #ask() {
    const asked = ++this.page.asked;
    const find = this.filter.value.trim();
    const zone = /^zone (\d+)$/.exec(find);
    const query = new URLSearchParams({ offset: String(this.page.offset), limit: String(PAGE), sort: this.sort.name, order: this.sort.down ? "down" : "up" });
    if (zone) query.set("zone", zone[1]);
    else if (find) query.set("find", find);
    try {
      const found = await get(`/live/players?${query}`);
      if (asked !== this.page.asked || this.kind !== "players") return; // a later question was asked meanwhile
      this.rows.players = found.players;
      this.page.count = found.count;
      const first = found.count ? found.offset + 1 : 0;
      say(this.info, `${first} to ${found.offset + found.players.length} of ${found.count}`);
      /** @type {HTMLButtonElement} */ (this.back).disabled = found.offset === 0;
      /** @type {HTMLButtonElement} */ (this.next).disabled = found.offset + PAGE >= found.count;
      this.#fill();
    } catch (error) {
      this.on.failed(error);
    }
  }

  #chosen() {
    const { columns } = TABLES[this.kind];
    if (this.kind === "players") return this.rows.players;
    const words = this.filter.value.trim().toLowerCase();
    const shown = (/** @type {any} */ row) => columns.map((column) => text(column, row)).join(" ").toLowerCase();
    const rows = words ? this.rows[this.kind].filter((row) => shown(row).includes(words)) : [...this.rows[this.kind]];
    const column = columns.find(({ name }) => name === this.sort.name) ?? columns[0];
    const value = column.sort ?? ((/** @type {any} */ row) => row[column.name] ?? "");
    const sign = this.sort.down ? -1 : 1;
    return rows.sort((a, b) => sign * compare(value(a), value(b))).slice(0, MOST_ROWS);
  }

  #fill() {
    const { columns, key } = TABLES[this.kind];
    const rows = this.#chosen();
    const kept = new Set(rows.map((row) => row[key]));
    for (const [name, line] of this.lines) {
      if (!kept.has(name)) {
        line.remove();
        this.lines.delete(name);
      }
    }
    rows.forEach((row, index) => {
      let line = this.lines.get(row[key]);
      if (!line) {
        line = this.#line(columns, row[key]);
        this.lines.set(row[key], line);
      }
      columns.forEach((column, at) => this.#cell(/** @type {HTMLElement} */ (line?.children[at]), column, row));
      if (this.body.children[index] !== line) this.body.insertBefore(line, this.body.children[index] ?? null);
    });
  }

  /** @param {Column[]} columns @param {string | number} key */
  #line(columns, key) {
    const kind = this.kind;
    const cells = columns.map((column, at) =>
      at ? element("td", { class: classes(column) }) : element("td", { class: classes(column) }, element("button", { type: "button", class: "link" })),
    );
    return element("tr", { onclick: () => this.on.open(kind, key) }, ...cells);
  }

  /** @param {HTMLElement} cell @param {Column} column @param {any} row */
  #cell(cell, column, row) {
    say(cell.firstElementChild ?? cell, text(column, row));
    if (column.owner) cell.style.setProperty("--owner", ownerColour(row[column.name]));
  }
}

/** @param {Column} column @param {any} row */
function text(column, row) {
  return column.show ? column.show(row) : String(row[column.name] ?? "");
}

/** @param {Column} column */
function classes(column) {
  return [column.right && "right", column.minor && "minor", column.owner && "owner"].filter(Boolean).join(" ") || null;
}

/** @param {any} a @param {any} b */
function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}
