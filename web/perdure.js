/**
 * Perdure's client for browsers and for Node 20 and later: one player, who stays the same over any number of sockets.
 *
 *     import { Client } from "./perdure.js";
 *     const client = new Client("wss://game.example/ws", { token });
 *     client.addEventListener("snapshot", () => draw(client.world));
 *     await client.connect();
 *     client.send("steer", { mx: 1, my: 0, fire: true });
 *
 * Node 20 has no WebSocket of its own: hand one in, `new Client(url, { token, WebSocket })` (the package `ws` has one).
 * Everything that arrives is an event (see ClientEvents); its `detail` is what the protocol made of the message.
 *
 * @module
 */

import { ClientProtocol, Notice, NotReady, ProtocolError } from "./sdk/protocol.js";
import { EntityView, SnapshotError, WorldView } from "./sdk/world_view.js";

export { ClientProtocol, EntityView, Notice, NotReady, ProtocolError, SnapshotError, WorldView };

/**
 * @typedef {import("./sdk/protocol.js").Received} Received
 * @typedef {import("./sdk/protocol.js").Welcome} Welcome
 * @typedef {string | (() => string | Promise<string>)} TokenSource
 * @typedef {{token?: TokenSource, resume?: string, reconnect?: boolean, connectTimeoutMs?: number, silenceMs?: number,
 *   WebSocket?: any}} Options
 * @typedef {{welcome: {welcome: Welcome}, snapshot: {snapshot: import("./sdk/world_view.js").Snapshot},
 *   notice: {notice: number, zone: number, text: string}, refused: {seq: number, text: string},
 *   chat: {from: string, to: string, text: string}, names: {names: Map<bigint, string>},
 *   pace: {zone: number, clockPercent: number, snapshotEvery: number, farEvery: number}, queued: {position: number, estimateS: number},
 *   stale: {zone: number, frozen: number[]}, map: {columns: number, rows: number, owners: string[]}, pong: {number: number},
 *   disconnect: {code: number, reason: string, again: boolean}, end: ClientClosed}} ClientEvents by name, what `detail` holds
 */

const STAGGER_MS = 50;
const BACKOFF_FIRST_MS = 100;
const BACKOFF_MOST_MS = 5000;
const BAD_RESUME = 4004;
const LOGGED_OUT = 4012;
/** What a browser says of a socket that broke without a close frame. */
const BROKEN = 1006;
/** A server that lives sends snapshots, or at least answers: after so long without any message it is asked, and after as long again given up. */
const SILENCE_MS = 5000;
const IN_GOOD_ORDER = 1000;
/** Close codes after which there is nothing to try again (docs/PROTOCOL.md, "Close codes"). */
const FINAL_CODES = new Set([1009, 4000, 4001, 4002, 4003, 4004, 4005, 4006, 4007, 4008, 4010, 4012, 4015]);

/** The connection is over for good. `code` is the server's; 0 where the client itself ended it. */
export class ClientClosed extends Error {
  /** @param {number} code @param {string} reason */
  constructor(code, reason) {
    super(code ? `closed with ${code}: ${reason}` : reason);
    this.code = code;
    this.reason = reason;
  }
}
/** The gateway did not accept a command; it was not applied and is not sent again. */
export class CommandRefused extends Error {}
/** Another session of this player was there before the zone acknowledged a command: it was applied, or it was not. */
export class OutcomeUnknown extends Error {}

export class Client extends EventTarget {
  /**
   * @param {string | string[]} urls of one gateway or of several: each reconnect tries the next
   * @param {Options} options `token`: a login token or what fetches one; `resume`: continues a session of before; `connectTimeoutMs`:
   *   how long `connect` waits, in a queue from each word of it; `silenceMs`: a socket that says nothing for so long, nor within as long
   *   again when it is asked, is made anew
   */
  constructor(urls, options = {}) {
    super();
    if (options.token === undefined && !options.resume) throw new ProtocolError("a client needs a token or a resume token");
    this.protocol = new ClientProtocol();
    this.protocol.resume = options.resume ?? "";
    /** @type {Welcome | null} */ this.welcome = null;
    /** @type {ClientClosed | null} */ this.ended = null;
    this.stats = { messages: 0, bytes: 0, snapshots: 0, commands: 0, refused: 0, connects: 0, reconnects: 0 };
    this.lastSnapshotMs = 0;
    /** @private */ this.urls = typeof urls === "string" ? [urls] : urls;
    /** @private */ this.options = options;
    /** @private @type {any} */ this.Socket = options.WebSocket ?? globalThis.WebSocket;
    if (!this.Socket) throw new ProtocolError("there is no WebSocket here: hand one in as the option WebSocket");
    /** @private @type {any} */ this.socket = null;
    /** @private */ this.newSocket = true;
    /** @private */ this.leaving = false;
    /** @private */ this.tries = 0;
    /** @private */ this.pings = 0;
    /** @private @type {Map<number, {sentMs: number, resolve: (ms: number) => void, reject: (error: Error) => void}>} */
    this.pinging = new Map();
    /** @private @type {Map<number, {resolve: (seq: number) => void, reject: (error: Error) => void}>} */
    this.waiting = new Map();
    /** @private @type {ReturnType<typeof setTimeout> | undefined} */ this.timer = undefined;
    /** @private @type {ReturnType<typeof setTimeout> | undefined} */ this.watchdog = undefined;
    /** When anything was heard last. @private */ this.heardMs = 0;
  }

  /** The world as of the newest snapshot, or null before the first welcome. */
  get world() {
    return this.protocol.world;
  }

  /** Whether there is a socket now, and a snapshot has arrived on it. */
  get connected() {
    return this.socket !== null && !this.newSocket;
  }

  /**
   * Listen for an event.
   *
   * @template {keyof ClientEvents} Name @param {Name} name @param {(detail: ClientEvents[Name]) => void} listener
   * @returns {() => void} ends it
   */
  on(name, listener) {
    const heard = (/** @type {any} */ event) => listener(event.detail);
    this.addEventListener(name, heard);
    return () => this.removeEventListener(name, heard);
  }

  /**
   * Connect; resolves with the first snapshot, rejects with ClientClosed. In a queue the time for it begins anew with each word of it.
   *
   * @returns {Promise<this>}
   */
  connect() {
    return new Promise((resolve, reject) => {
      /** @type {ReturnType<typeof setTimeout> | undefined} */ let timeout;
      const begin = () => {
        clearTimeout(timeout);
        timeout = setTimeout(() => this.end(new ClientClosed(0, "no snapshot came in time")), this.options.connectTimeoutMs ?? 15_000);
      };
      const done = [
        this.on("snapshot", () => settle(() => resolve(this))),
        this.on("end", (error) => settle(() => reject(error))),
        this.on("queued", begin),
      ];
      const settle = (/** @type {() => void} */ then) => {
        clearTimeout(timeout);
        for (const stop of done) stop();
        then();
      };
      begin();
      if (this.ended) settle(() => reject(this.ended));
      else this.open();
    });
  }

  /** End the connection. The player stays in the world for its grace time; `protocol.resume` continues it. */
  close() {
    this.end(new ClientClosed(0, "closed by this client"));
  }

  /** Log out; resolves once the server says that the player has left the world. @returns {Promise<void>} */
  leave() {
    return new Promise((resolve, reject) => {
      if (this.ended) {
        reject(this.ended);
        return;
      }
      this.leaving = true;
      this.on("end", (error) => (error.code === LOGGED_OUT ? resolve() : reject(error)));
      if (this.connected) this.write(this.protocol.leave()); // else with the next socket's first snapshot
    });
  }

  /** Break the socket as a network would: for tests. */
  dropSocket() {
    this.socket?.close();
  }

  // --- out ----------------------------------------------------------------------------------------------------------

  /**
   * Send a command at once and return its number. Throws NotReady (wait), ProtocolError (wrong) or ClientClosed.
   *
   * @param {string} name @param {Record<string, number | boolean>} [fields] those left out are 0
   */
  send(name, fields = {}) {
    if (this.ended) throw this.ended;
    const { seq, message } = this.protocol.command(name, fields);
    this.stats.commands++;
    this.write(message);
    return seq;
  }

  /**
   * Send a command; resolves with its number once the zone has applied it for good. Rejects with CommandRefused, OutcomeUnknown,
   * NotReady, ProtocolError or ClientClosed.
   *
   * @param {string} name @param {Record<string, number | boolean>} [fields] @returns {Promise<number>}
   */
  command(name, fields = {}) {
    return new Promise((resolve, reject) => this.waiting.set(this.send(name, fields), { resolve, reject }));
  }

  /** Say something to one's zone, or to the player called `to`. @param {string} text @param {string} [to] */
  chat(text, to = "") {
    this.write(this.protocol.chat(to, text));
  }

  /** Ask for players' names; the answer is the event "names". @param {bigint[]} keys */
  who(keys) {
    for (let at = 0; at < keys.length; at += 64) this.write(this.protocol.who(keys.slice(at, at + 64)));
  }

  /** Resolves with the milliseconds that a ping takes to the gateway and back. @returns {Promise<number>} */
  ping() {
    return new Promise((resolve, reject) => {
      if (!this.connected) {
        reject(new NotReady("there is no connection now"));
        return;
      }
      this.pinging.set(++this.pings, { sentMs: performance.now(), resolve, reject });
      this.write(this.protocol.ping(this.pings));
    });
  }

  /** Without a socket nothing is lost: commands are kept by the protocol. @private @param {Uint8Array} message */
  write(message) {
    if (this.socket?.readyState === 1) this.socket.send(message);
  }

  // --- in -----------------------------------------------------------------------------------------------------------

  /** @private @param {Uint8Array} data */
  received(data) {
    this.stats.messages++;
    this.stats.bytes += data.length;
    const received = this.protocol.receive(data);
    for (const message of this.protocol.outgoing.splice(0)) this.write(message);
    if (received.type === "ignored") return;
    if (received.type === "welcome") {
      this.welcome = received.welcome;
      this.tries = 0;
    } else if (received.type === "snapshot") {
      this.settle(received.snapshot.ack);
    } else if (received.type === "refused") {
      this.stats.refused++;
      this.waiting.get(received.seq)?.reject(new CommandRefused(received.text));
      this.waiting.delete(received.seq);
    } else if (received.type === "pong") {
      const ping = this.pinging.get(received.number);
      this.pinging.delete(received.number);
      ping?.resolve(performance.now() - ping.sentMs);
    }
    this.tell(received.type, received);
  }

  /** @private @param {string} name @param {any} detail */
  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** A snapshot came: whoever waits for a command that it acknowledges waits no more. @private @param {number} ack */
  settle(ack) {
    this.stats.snapshots++;
    this.lastSnapshotMs = performance.now();
    if (this.newSocket) {
      this.newSocket = false;
      for (const seq of this.protocol.unknown) {
        this.waiting.get(seq)?.reject(new OutcomeUnknown(`nobody can tell whether command ${seq}, which was on its way, was applied`));
        this.waiting.delete(seq);
      }
      const { renumbered } = this.protocol;
      if (renumbered.size) this.waiting = new Map([...this.waiting].map(([seq, entry]) => [renumbered.get(seq) ?? seq, entry]));
      if (this.leaving) this.write(this.protocol.leave());
    }
    for (const [seq, entry] of this.waiting) {
      if (seq > ack) continue;
      this.waiting.delete(seq);
      entry.resolve(seq);
    }
  }

  // --- sockets ------------------------------------------------------------------------------------------------------

  /** @private */
  async open() {
    if (this.ended || this.socket) return;
    const url = this.urls[this.stats.connects++ % this.urls.length];
    /** @type {string | null} */ let token = null;
    try {
      if (!this.protocol.resume) token = await this.fetchToken();
    } catch (error) {
      this.end(new ClientClosed(0, error instanceof Error ? error.message : String(error)));
      return;
    }
    if (this.ended) return;
    if (this.welcome) this.stats.reconnects++;
    /** @type {any} */ let socket;
    try {
      socket = new this.Socket(url);
    } catch (error) {
      this.end(new ClientClosed(0, `cannot connect to ${url}: ${error}`));
      return;
    }
    this.socket = socket;
    this.newSocket = true;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(this.protocol.hello(token));
    socket.onmessage = (/** @type {{data: ArrayBuffer}} */ event) => {
      if (this.socket !== socket) return;
      this.heardMs = performance.now();
      try {
        this.received(new Uint8Array(event.data));
      } catch (error) {
        if (!(error instanceof ProtocolError || error instanceof SnapshotError)) throw error;
        this.closed(socket, 0, error.message); // what is out of step is made anew
        socket.close(IN_GOOD_ORDER);
      }
    };
    socket.onerror = () => {}; // a close follows, with what there is to know
    socket.onclose = (/** @type {{code: number, reason: string}} */ event) => this.closed(socket, event.code, event.reason);
    this.heardMs = performance.now();
    this.watch(socket, false);
  }

  /**
   * Ask a socket that is silent, and give up one that stays so: a connection may die without a FIN or RST, and then no close comes for
   * minutes. The time to answer counts from the question, so a page that slept asks before it gives up. One that does not open is given
   * up after the same time.
   *
   * @private @param {any} socket @param {boolean} asked
   */
  watch(socket, asked) {
    const silenceMs = this.options.silenceMs ?? SILENCE_MS;
    const { heardMs } = this;
    const waitMs = asked ? silenceMs : heardMs + silenceMs - performance.now();
    this.watchdog = setTimeout(() => {
      if (this.socket !== socket) return;
      if (this.heardMs !== heardMs) {
        this.watch(socket, false);
      } else if (!asked) {
        this.write(this.protocol.ping(0));
        this.watch(socket, true);
      } else {
        this.closed(socket, BROKEN, `nothing was heard for ${Math.round((performance.now() - heardMs) / 1000)} s`);
        socket.close(); // of no use to the server, which hears no more than we do: it frees what there is here
      }
    }, waitMs);
  }

  /** @private @returns {Promise<string>} */
  async fetchToken() {
    const { token } = this.options;
    if (token === undefined) throw new ProtocolError("no token to log in with");
    return typeof token === "function" ? token() : token;
  }

  /** The socket is gone: connect again, unless the code says that it is for good. @private @param {any} socket @param {number} code @param {string} reason */
  closed(socket, code, reason) {
    if (this.socket !== socket || this.ended) return;
    this.socket = null;
    clearTimeout(this.watchdog);
    this.forgetPings("the socket broke");
    let again = !FINAL_CODES.has(code) && this.options.reconnect !== false && !this.leaving;
    if (code === BAD_RESUME && this.options.token !== undefined) {
      this.protocol.resume = "";
      this.tries = 0; // the login comes at once
      again = this.options.reconnect !== false;
    }
    this.tell("disconnect", { code, reason, again });
    if (!again) {
      this.end(new ClientClosed(code, reason || "the socket broke"));
      return;
    }
    this.tries++;
    const most = Math.min(BACKOFF_FIRST_MS * 2 ** (this.tries - 2), BACKOFF_MOST_MS);
    const waitMs = this.tries === 1 ? Math.random() * STAGGER_MS : (0.5 + Math.random() / 2) * most;
    this.timer = setTimeout(() => this.open(), waitMs);
  }

  /** @private @param {string} why */
  forgetPings(why) {
    for (const ping of this.pinging.values()) ping.reject(new NotReady(why));
    this.pinging.clear();
  }

  /** @private @param {ClientClosed} why */
  end(why) {
    if (this.ended) return;
    this.ended = why;
    clearTimeout(this.timer);
    clearTimeout(this.watchdog);
    const { socket } = this;
    this.socket = null;
    socket?.close(IN_GOOD_ORDER);
    for (const entry of this.waiting.values()) entry.reject(why);
    this.waiting.clear();
    this.forgetPings(why.message);
    this.tell("end", why);
  }
}
