/**
 * The client's side of the protocol, without I/O: bytes in, what happened out; commands in, bytes out. The twin of
 * perdure/client/protocol.py; docs/PROTOCOL.md is the specification.
 *
 * Owns the sequence numbers, the commands not yet acknowledged and the world view of one player, over any number of connections.
 *
 * @module
 */

import { decode, encode } from "../vendor/msgpack.js";
import { WorldView } from "./world_view.js";

/**
 * @typedef {import("./world_view.js").Snapshot} Snapshot
 * @typedef {import("./world_view.js").Schema} Schema
 * @typedef {import("./world_view.js").CommandType} CommandType
 * @typedef {{session: number, player: string, key: bigint, resume: string, schema: Schema, schema_hash: string, tick_hz: number,
 *   zone: number, gateway: string}} Welcome
 * @typedef {{type: "welcome", welcome: Welcome} | {type: "snapshot", snapshot: Snapshot}
 *   | {type: "notice", notice: number, zone: number, text: string} | {type: "pong", number: number}
 *   | {type: "refused", seq: number, text: string} | {type: "chat", from: string, to: string, text: string}
 *   | {type: "names", names: Map<bigint, string>} | {type: "pace", zone: number, clockPercent: number, snapshotEvery: number, farEvery: number}
 *   | {type: "queued", position: number, estimateS: number} | {type: "stale", zone: number, frozen: number[]}
 *   | {type: "map", columns: number, rows: number, owners: string[]} | {type: "ignored", op: number}} Received
 * @typedef {{seq: number, kind: number, values: (number | boolean)[]}} Pending
 */

export const PROTOCOL = 1;
export const MAX_PENDING = 64;
export const Notice = Object.freeze({ PAUSED: 1, RESUMED: 2, FAILED_OVER: 3 });

/** The server sent something that this client does not understand, or the caller asked for what cannot be. */
export class ProtocolError extends Error {}
/** No command can be sent now: no snapshot yet, or too many commands are unacknowledged. */
export class NotReady extends ProtocolError {}

/** What came as u64 is, in all but a key, small enough for a double. @param {any} value @returns {any} */
function plain(value) {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value === "object" && !(value instanceof Uint8Array)) {
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plain(part)]));
  }
  return value;
}

/** @param {CommandType} type @param {any[]} values @returns {string} why they cannot be the command's fields, or "" */
function commandFault(type, values) {
  for (const [k, field] of type.fields.entries()) {
    const whole = field.dtype[0] !== "f";
    const value = whole && typeof values[k] === "boolean" ? Number(values[k]) : values[k]; // for a float the gateway takes no boolean
    if (typeof value !== "number" || !(value >= field.lo && value <= field.hi) || (whole && !Number.isInteger(value))) {
      return `${type.name}.${field.name} is a ${whole ? "whole " : ""}number from ${field.lo} to ${field.hi}`;
    }
  }
  return "";
}

/** Messages by their number: what is made of each. @type {Record<number, (message: any[]) => Received>} */
const PLAIN_MESSAGES = {
  3: ([, notice, zone, text]) => ({ type: "notice", notice: Number(notice), zone: Number(zone), text: String(text) }),
  4: ([, number]) => ({ type: "pong", number: Number(number) }),
  6: ([, from, to, text]) => ({ type: "chat", from: String(from), to: String(to), text: String(text) }),
  7: ([, pairs]) => ({ type: "names", names: new Map(pairs.map((/** @type {any[]} */ [key, name]) => [BigInt(key), String(name)])) }),
  8: ([, zone, percent, every, far]) => (
    { type: "pace", zone: Number(zone), clockPercent: Number(percent), snapshotEvery: Number(every), farEvery: Number(far ?? 1) }),
  9: ([, position, estimate]) => ({ type: "queued", position: Number(position), estimateS: Number(estimate) }),
  10: ([, zone, frozen]) => ({ type: "stale", zone: Number(zone), frozen: frozen.map(Number) }),
};

export class ClientProtocol {
  constructor() {
    /** @type {Schema | null} */ this.schema = null;
    this.schemaHash = "";
    /** @type {WorldView | null} */ this.world = null;
    /** @type {{columns: number, rows: number, owners: string[]} | null} */ this.map = null;
    this.resume = "";
    this.player = "";
    this.acked = 0;
    /** Messages that the driver must send, in order. @type {Uint8Array[]} */
    this.outgoing = [];
    /** Numbers that the last login gave anew: old to new. @type {Map<number, number>} */
    this.renumbered = new Map();
    /** Commands whose outcome the last login could not tell. @type {number[]} */
    this.unknown = [];
    /** Sessions that began behind what was acknowledged: data loss. */
    this.acknowledgedLost = 0;
    /** @type {Pending[]} */ this.pending = [];
    /** @type {Map<string, CommandType>} */ this.commands = new Map();
    this.nextSeq = 1;
    this.synchronised = false;
    this.refusalsDue = 0;
    this.session = 0;
    this.resuming = false;
    this.contiguous = true;
  }

  // --- out ----------------------------------------------------------------------------------------------------------

  /** Start a connection: by token, or with the last welcome's resume token where it is null. @param {string | null} token */
  hello(token) {
    this.synchronised = false;
    this.refusalsDue = 0;
    this.outgoing = [];
    this.resuming = token === null;
    if (token === null && !this.resume) throw new ProtocolError("there is no resume token yet: log in by token first");
    const proof = token === null ? { resume: this.resume } : { token };
    return encode([1, { protocol: PROTOCOL, schema: null, ...proof }]);
  }

  /** Whether a command can be sent now. */
  get ready() {
    return this.synchronised && !this.refusalsDue && this.pending.length < MAX_PENDING;
  }

  /**
   * Number and encode a command. Throws NotReady, or ProtocolError for wrong fields; fields left out are 0.
   *
   * @param {string} name @param {Record<string, number | boolean>} fields
   * @returns {{seq: number, message: Uint8Array}}
   */
  command(name, fields) {
    const type = this.commands.get(name);
    if (!type) throw new ProtocolError(`there is no command "${name}"; there are: ${[...this.commands.keys()].join(", ") || "none"}`);
    for (const field of Object.keys(fields)) {
      if (!type.fields.some((known) => known.name === field)) throw new ProtocolError(`${name} has no field ${field}`);
    }
    const values = type.fields.map((field) => fields[field.name] ?? 0);
    const fault = commandFault(type, values);
    if (fault) throw new ProtocolError(fault);
    if (!this.synchronised) throw new NotReady("wait for the first snapshot before sending commands");
    if (this.refusalsDue) throw new NotReady("wait until the refusal of earlier commands is settled");
    if (this.pending.length >= MAX_PENDING) throw new NotReady(`${this.pending.length} commands are not yet acknowledged`);
    const pending = { seq: this.nextSeq++, kind: type.kind, values };
    this.pending.push(pending);
    return { seq: pending.seq, message: this.encodeCommand(pending) };
  }

  /** @private @param {Pending} command */
  encodeCommand(command) {
    return encode([2, command.seq, command.kind, ...command.values]);
  }

  /** @param {number} number */
  ping(number) {
    return encode([3, number]);
  }

  leave() {
    return encode([4]);
  }

  /** @param {string} to "" for one's zone, else a player's name @param {string} text */
  chat(to, text) {
    return encode([5, to, text]);
  }

  /** Ask for players' names. @param {bigint[]} keys at most 64 */
  who(keys) {
    return encode([6, ...keys], { useBigInt64: true });
  }

  // --- in -----------------------------------------------------------------------------------------------------------

  /**
   * Take one message of the server; may fill `outgoing`. Throws ProtocolError or SnapshotError.
   *
   * @param {Uint8Array} data @returns {Received}
   */
  receive(data) {
    let message;
    try {
      message = /** @type {any[]} */ (decode(data, { useBigInt64: true }));
    } catch (error) {
      throw new ProtocolError(`the server sent no msgpack: ${error}`);
    }
    if (!Array.isArray(message) || typeof message[0] !== "number") throw new ProtocolError("the server's message does not start with a number");
    try {
      return this.dispatch(message[0], message);
    } catch (error) {
      if (!(error instanceof TypeError || error instanceof SyntaxError)) throw error;
      throw new ProtocolError(`message ${message[0]} of the server has another shape: ${error.message}`);
    }
  }

  /** @private @param {number} op @param {any[]} message @returns {Received} */
  dispatch(op, message) {
    if (op === 1) return { type: "welcome", welcome: this.welcomed(message[1]) };
    if (op === 2) return { type: "snapshot", snapshot: this.snapshot(message) };
    if (op === 5) return this.refused(Number(message[1]), String(message[2]));
    if (op === 11) {
      this.map = { columns: Number(message[1]), rows: Number(message[2]), owners: message[3].map(String) };
      return { type: "map", ...this.map };
    }
    return PLAIN_MESSAGES[op]?.(message) ?? { type: "ignored", op };
  }

  /** @private @param {any} body @returns {Welcome} */
  welcomed(body) {
    const welcome = /** @type {Welcome} */ ({ ...plain(body), key: BigInt(body.key) });
    if (!this.world || this.schemaHash !== welcome.schema_hash) {
      this.schema = welcome.schema;
      this.schemaHash = welcome.schema_hash;
      this.world = new WorldView(welcome.schema);
      this.commands = new Map(welcome.schema.commands.map((type) => [type.name, type]));
    }
    // A resume token serves once, and a login makes it void: who may resume has had no other session in between.
    this.contiguous = this.contiguous && (this.resuming || welcome.session === this.session + 1);
    this.session = welcome.session;
    this.resume = welcome.resume;
    this.player = welcome.player;
    return welcome;
  }

  /** @private @param {any[]} message @returns {Snapshot} */
  snapshot(message) {
    if (!this.world) throw new ProtocolError("a snapshot came before the welcome");
    const snapshot = this.world.apply(message);
    if (!this.synchronised) {
      this.unknown = [];
      if (snapshot.ack < this.acked) this.forgotten(snapshot.ack);
      else if (!this.contiguous) this.beginAnew(snapshot.ack);
    }
    if (snapshot.ack > this.acked) {
      this.acked = snapshot.ack;
      while (this.pending.length && this.pending[0].seq <= snapshot.ack) this.pending.shift();
    }
    if (!this.synchronised) this.synchronise(snapshot.ack);
    return snapshot;
  }

  /** Another session of this player has used numbers: those up to `ack` say nothing about ours. @private @param {number} ack */
  beginAnew(ack) {
    this.unknown = this.pending.filter((command) => command.seq <= ack).map((command) => command.seq);
    this.pending = this.pending.filter((command) => command.seq > ack);
    this.acked = ack;
  }

  /** The world has forgotten some of what it told us. Of our other commands it may know none either, though it has applied them.
   * @private @param {number} ack */
  forgotten(ack) {
    this.acknowledgedLost++;
    this.unknown = this.pending.map((command) => command.seq);
    this.pending = [];
    this.acked = ack;
  }

  /** First snapshot of a connection: what is above its acknowledgement is sent again, before all newer. @private @param {number} ack */
  synchronise(ack) {
    this.synchronised = true;
    this.contiguous = true;
    this.renumbered = new Map();
    if (this.pending.length && this.pending[0].seq !== ack + 1) {
      for (const [offset, command] of this.pending.entries()) {
        this.renumbered.set(command.seq, ack + 1 + offset);
        command.seq = ack + 1 + offset;
      }
    }
    this.nextSeq = ack + 1 + this.pending.length;
    this.outgoing.push(...this.pending.map((command) => this.encodeCommand(command)));
  }

  /** @private @param {number} seq @param {string} text @returns {Received} */
  refused(seq, text) {
    if (this.refusalsDue) {
      this.refusalsDue--;
    } else {
      // Everything numbered from here on was sent already, and is refused too, one by one.
      this.refusalsDue = this.pending.filter((command) => command.seq > seq).length;
      this.nextSeq = Math.min(this.nextSeq, seq);
      this.pending = this.pending.filter((command) => command.seq < seq);
    }
    return { type: "refused", seq, text };
  }
}
