/**
 * What the playground shows of a player: figures, a map of dots, tables of entities, a log of messages. All text is set as text.
 *
 * @module
 */

import { ownerColour } from "../colours.js";

const LOG_KEPT = 300;
const ROWS_SHOWN = 200;
const TYPE_COLOURS = ["#5cc8ff", "#ffd56b", "#ff9f5c", "#7ee08a", "#d08cff", "#ff6f91", "#53e3d4", "#a3b4ff"];

/**
 * @typedef {import("../perdure.js").Client} Client
 * @typedef {import("../sdk/world_view.js").WorldView} WorldView
 * @typedef {import("../sdk/world_view.js").EntityView} EntityView
 */

/** @template {keyof HTMLElementTagNameMap} Tag @param {Tag} tag @param {string} [text] @returns {HTMLElementTagNameMap[Tag]} */
function made(tag, text = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

/** @param {number} value */
function short(value) {
  return Number.isInteger(value) ? String(value) : value.toFixed(2);
}

/** @param {HTMLElement} box @param {Client} client @param {number} gapMs @param {number} pingMs @param {boolean} isCut */
export function fillFigures(box, client, gapMs, pingMs, isCut) {
  const { world, stats, protocol } = client;
  const figures = {
    line: isCut ? "cut" : client.connected ? "up" : "down",
    zone: world?.zone ?? "-",
    epoch: world?.epoch ?? "-",
    tick: world?.tick ?? "-",
    "applied command": protocol.acked,
    "on their way": protocol.pending.length,
    "in sight": world?.entities.size ?? 0,
    "ping, ms": Number.isNaN(pingMs) ? "-" : pingMs.toFixed(1),
    "last interval, ms": gapMs.toFixed(0),
    snapshots: stats.snapshots,
    "KiB received": (stats.bytes / 1024).toFixed(0),
    reconnects: stats.reconnects,
  };
  if (box.childElementCount !== Object.keys(figures).length) {
    box.replaceChildren(
      ...Object.keys(figures).map((name) => {
        const row = made("div");
        row.append(made("dt", name), made("dd"));
        return row;
      }),
    );
  }
  for (const [at, value] of Object.values(figures).entries()) {
    const shown = /** @type {HTMLElement} */ (box.children[at].lastElementChild);
    if (shown.textContent !== String(value)) shown.textContent = String(value);
  }
}

/** @param {HTMLCanvasElement} canvas @param {WorldView} world @param {{columns: number, rows: number, owners: string[]} | null} map */
export function drawMap(canvas, world, map) {
  const draw = canvas.getContext("2d");
  if (!draw) return;
  const { schema, me } = world;
  const scale = Math.min(canvas.width / schema.width, canvas.height / schema.height);
  const left = (canvas.width - schema.width * scale) / 2;
  const top = (canvas.height - schema.height * scale) / 2;
  draw.clearRect(0, 0, canvas.width, canvas.height);
  const { columns, rows, owners } = map ?? { columns: 1, rows: 1, owners: [""] };
  const width = (schema.width * scale) / columns;
  const height = (schema.height * scale) / rows;
  for (let zone = 0; zone < columns * rows; zone++) {
    const x = left + (zone % columns) * width;
    const y = top + Math.floor(zone / columns) * height;
    draw.globalAlpha = 0.12;
    draw.fillStyle = draw.strokeStyle = ownerColour(owners[zone] ?? "");
    draw.fillRect(x, y, width, height);
    draw.globalAlpha = 0.7;
    draw.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
  }
  draw.globalAlpha = 1;
  const types = schema.entities.map((type) => type.name);
  for (const entity of world.entities.values()) {
    draw.fillStyle = TYPE_COLOURS[types.indexOf(entity.type) % TYPE_COLOURS.length];
    const size = entity === me ? 5 : 3;
    draw.fillRect(left + entity.fields.x * scale - size / 2, top + entity.fields.y * scale - size / 2, size, size);
  }
  if (me) {
    draw.strokeStyle = "#9ce0ff";
    draw.beginPath();
    draw.arc(left + me.fields.x * scale, top + me.fields.y * scale, schema.interest * scale, 0, 2 * Math.PI);
    draw.stroke();
  }
}

/** Tables by type, one's own avatar first. @param {HTMLElement} box @param {WorldView} world @param {string} filter */
export function fillTables(box, world, filter) {
  const parts = [];
  for (const type of world.schema.entities) {
    const rows = [...world.entities.values()]
      .filter((entity) => entity.type === type.name && (!filter || type.name.includes(filter) || String(entity.id).includes(filter)))
      .sort((a, b) => Number(b.id === world.meId) - Number(a.id === world.meId) || a.id - b.id);
    if (rows.length) parts.push(made("h3", `${type.name} (${rows.length})`), table(type.fields.map((field) => field.name), rows, world.meId));
  }
  box.replaceChildren(...(parts.length ? parts : [made("p", "Nothing is in sight.")]));
}

/** @param {string[]} names @param {EntityView[]} rows @param {number} meId */
function table(names, rows, meId) {
  const grid = made("table");
  const head = grid.createTHead().insertRow();
  for (const name of ["id", ...names]) {
    const cell = made("th", name);
    cell.scope = "col";
    head.append(cell);
  }
  const body = grid.createTBody();
  for (const entity of rows.slice(0, ROWS_SHOWN)) {
    const row = body.insertRow();
    if (entity.id === meId) row.className = "me";
    row.insertCell().textContent = String(entity.id);
    for (const name of names) row.insertCell().textContent = name in entity.fields ? short(entity.fields[name]) : "";
  }
  if (rows.length > ROWS_SHOWN) body.insertRow().insertCell().textContent = `and ${rows.length - ROWS_SHOWN} more`;
  return grid;
}

/** The last messages of one player, newest first, by kind. */
export class LogView {
  constructor() {
    /** @private @type {{at: string, kind: string, text: string}[]} */ this.lines = [];
    /** @private @type {Map<string, boolean>} */ this.kinds = new Map();
    /** @private @type {HTMLElement | null} */ this.list = null;
    /** @private @type {HTMLElement | null} */ this.boxes = null;
  }

  /** @param {string} kind @param {string} text */
  add(kind, text) {
    const line = { at: new Date().toLocaleTimeString([], { hour12: false }), kind, text };
    this.lines.unshift(line);
    this.lines.length = Math.min(this.lines.length, LOG_KEPT);
    const isNew = !this.kinds.has(kind);
    if (isNew) this.kinds.set(kind, true);
    if (!this.list?.isConnected) return;
    if (isNew) this.drawKinds();
    if (!this.kinds.get(kind)) return;
    this.list.prepend(this.row(line));
    while (this.list.childElementCount > LOG_KEPT) this.list.lastElementChild?.remove();
  }

  /** Show this log, and no other, in a list. @param {HTMLElement} list @param {HTMLElement} boxes */
  show(list, boxes) {
    if (/** @type {any} */ (list).shows) /** @type {any} */ (list).shows.list = null;
    /** @type {any} */ (list).shows = this;
    this.list = list;
    this.boxes = boxes;
    this.drawKinds();
    this.draw();
  }

  /** @private */
  draw() {
    this.list?.replaceChildren(...this.lines.filter((line) => this.kinds.get(line.kind)).map((line) => this.row(line)));
  }

  /** @private @param {{at: string, kind: string, text: string}} line */
  row({ at, kind, text }) {
    const row = made("li");
    const what = made("span", kind);
    what.className = "kind";
    row.append(made("span", at), what, made("span", text));
    return row;
  }

  /** @private */
  drawKinds() {
    const legend = this.boxes?.querySelector("legend");
    this.boxes?.replaceChildren(
      ...(legend ? [legend] : []),
      ...[...this.kinds].map(([kind, on]) => {
        const label = made("label");
        label.className = "check";
        const box = made("input");
        box.type = "checkbox";
        box.checked = on;
        box.onchange = () => {
          this.kinds.set(kind, box.checked);
          this.draw();
        };
        label.append(box, kind);
        return label;
      }),
    );
  }
}
