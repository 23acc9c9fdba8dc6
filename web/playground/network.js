/**
 * A worse network than there is: a WebSocket whose messages come late, in fits, or not at all for a while.
 *
 * Messages keep their order, as over TCP: one that is late holds up those behind it. A lost packet is sent again after a time-out of
 * the sender, so that loss shows as a pause, never as a gap.
 *
 * @module
 */

const RETRANSMIT_MS = 200;
const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 3;
const BROKEN = 1006;

/** What the line is like now. Each may be changed at any time, and holds for what is sent from then on. */
export class Line {
  constructor() {
    /** One way, milliseconds. */ this.latencyMs = 0;
    /** Up to so much more, by chance, milliseconds. */ this.jitterMs = 0;
    /** Share of the packets that are lost, 0 to 1. */ this.loss = 0;
    /** @private */ this.cutUntilMs = 0;
    /** Those that are open. @type {Set<{broken: () => void}>} */ this.sockets = new Set();
  }

  /** Break all sockets now, and let none be opened for so long. @param {number} seconds */
  cut(seconds) {
    this.cutUntilMs = performance.now() + seconds * 1000;
    for (const socket of [...this.sockets]) socket.broken();
  }

  get isCut() {
    return performance.now() < this.cutUntilMs;
  }

  /** How long a message takes that is sent now. */
  delayMs() {
    let delay = this.latencyMs + Math.random() * this.jitterMs;
    while (Math.random() < Math.min(this.loss, 0.9)) delay += RETRANSMIT_MS + 2 * this.latencyMs;
    return delay;
  }
}

/** One direction: what is put in comes out later, in order. */
class Pipe {
  /** @param {Line} line @param {(data: any) => void} deliver */
  constructor(line, deliver) {
    this.line = line;
    this.deliver = deliver;
    this.dueMs = 0;
    this.open = true;
  }

  /** @param {any} data */
  put(data) {
    const now = performance.now();
    this.dueMs = Math.max(this.dueMs, now + this.line.delayMs());
    const wait = this.dueMs - now;
    if (wait < 1) this.deliver(data);
    else setTimeout(() => this.open && this.deliver(data), wait);
  }
}

/**
 * Return a class like WebSocket whose sockets go over `line`.
 *
 * @param {Line} line
 * @param {any} [Base] the class underneath
 */
export function socketsOver(line, Base = globalThis.WebSocket) {
  return class LineSocket {
    /** @param {string} url */
    constructor(url) {
      /** @type {any} */ this.onopen = null;
      /** @type {any} */ this.onmessage = null;
      /** @type {any} */ this.onclose = null;
      /** @type {any} */ this.onerror = null;
      this.readyState = CONNECTING;
      this.binaryType = "arraybuffer";
      this.out = new Pipe(line, (data) => this.base?.readyState === OPEN && this.base.send(data));
      this.in = new Pipe(line, (data) => this.readyState === OPEN && this.onmessage?.({ data }));
      /** @type {any} */ this.base = null;
      if (line.isCut) {
        setTimeout(() => this.ended(BROKEN, "the line is cut"), 50);
        return;
      }
      line.sockets.add(this);
      const base = new Base(url);
      this.base = base;
      base.binaryType = "arraybuffer";
      base.onopen = () => {
        if (this.readyState !== CONNECTING) return;
        this.readyState = OPEN;
        this.onopen?.({});
      };
      base.onmessage = (/** @type {{data: any}} */ event) => this.in.put(event.data);
      base.onerror = (/** @type {any} */ event) => this.onerror?.(event);
      base.onclose = (/** @type {{code: number, reason: string}} */ event) => this.ended(event.code, event.reason);
    }

    /** @param {any} data */
    send(data) {
      this.out.put(data);
    }

    /** @param {number} [code] */
    close(code) {
      if (this.base && this.base.readyState <= OPEN) this.base.close(code);
      else this.ended(code ?? 1000, "");
    }

    /** The line was cut: as a network does it, without a close frame that anybody sees. */
    broken() {
      this.ended(BROKEN, "the line was cut");
      this.base?.close();
    }

    /** @param {number} code @param {string} reason */
    ended(code, reason) {
      if (this.readyState === CLOSED) return;
      this.readyState = CLOSED;
      this.in.open = this.out.open = false;
      line.sockets.delete(this);
      this.onclose?.({ code, reason });
    }
  };
}
