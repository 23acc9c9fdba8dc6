/**
 * Everything that others do, a little in the past: positions between two snapshots instead of at the last one (interpolation).
 *
 * Owns the time line of the snapshots and a short track of each entity in sight. What leaves is drawn until the time shown gets there.
 *
 * @module
 */

/** @typedef {import("../sdk/world_view.js").EntityView} EntityView */
/** @typedef {{entity: EntityView, t: number[], x: number[], y: number[], goneAt: number}} Track */

const KEPT = 10;
const TELEPORT = 220;
const RESYNC_MS = 250;

export class Motion {
  constructor() {
    /** @type {Map<number, Track>} */ this.tracks = new Map();
    this.tickMs = 50;
    this.delayMs = 100;
    this.lastT = 0;
    this.zone = -1;
    this.tick = 0;
  }

  /** How far behind the present the picture is: two snapshots. @param {number} tickMs @param {number} [every] ticks a snapshot */
  pace(tickMs, every = 1) {
    this.tickMs = tickMs;
    this.delayMs = Math.min(Math.max(2 * tickMs * every, 80), 600);
  }

  /**
   * @param {import("../sdk/world_view.js").WorldView} world after the snapshot
   * @param {import("../sdk/world_view.js").Snapshot} snapshot @param {number} nowMs
   */
  take(world, snapshot, nowMs) {
    const t = this.timeOf(snapshot, nowMs);
    for (const id of snapshot.left) {
      const track = this.tracks.get(id);
      if (track) track.goneAt = t;
    }
    const moved = new Set([...snapshot.entered, ...snapshot.updated]);
    for (const entity of world.entities.values()) {
      const track = this.tracks.get(entity.id);
      if (!track || track.entity !== entity || track.goneAt) {
        const { x = 0, y = 0 } = entity.fields;
        this.tracks.set(entity.id, { entity, t: [t], x: [x], y: [y], goneAt: 0 });
      } else if (moved.has(entity.id) || snapshot.keyframe) this.follow(track, t);
    }
    return t;
  }

  /** Snapshots come unevenly, ticks do not: the time line follows the ticks, and drifts to the arrivals. */
  timeOf(/** @type {import("../sdk/world_view.js").Snapshot} */ snapshot, /** @type {number} */ nowMs) {
    const ticks = snapshot.zone === this.zone ? snapshot.tick - this.tick : 1;
    const due = this.lastT + Math.max(ticks, 1) * this.tickMs;
    const off = nowMs - due;
    this.lastT = Math.abs(off) > RESYNC_MS ? Math.max(nowMs, this.lastT + 1) : due + off * 0.1;
    this.zone = snapshot.zone;
    this.tick = snapshot.tick;
    return this.lastT;
  }

  /** @param {Track} track @param {number} t */
  follow(track, t) {
    const { x, y } = track.entity.fields;
    const end = track.t.length - 1;
    if (Math.hypot(x - track.x[end], y - track.y[end]) > TELEPORT) {
      track.t = [t];
      track.x = [x];
      track.y = [y];
      return;
    }
    if (t - track.t[end] > 1.5 * this.tickMs) this.push(track, t - this.tickMs, track.x[end], track.y[end]); // it stood until then
    this.push(track, t, x, y);
  }

  /** @param {Track} track @param {number} t @param {number} x @param {number} y */
  push(track, t, x, y) {
    track.t.push(t);
    track.x.push(x);
    track.y.push(y);
    if (track.t.length > KEPT) {
      track.t.shift();
      track.x.shift();
      track.y.shift();
    }
  }

  /** Forget what is gone, and return what is to be drawn. @param {number} nowMs @returns {{entity: EntityView, x: number, y: number, leaving: boolean}[]} */
  shown(nowMs) {
    const at = nowMs - this.delayMs;
    const out = [];
    for (const [id, track] of this.tracks) {
      if (track.goneAt && at >= track.goneAt) {
        this.tracks.delete(id);
        continue;
      }
      out.push({ entity: track.entity, ...this.position(track, at), leaving: track.goneAt > 0 });
    }
    return out;
  }

  /** @param {Track} track @param {number} at */
  position(track, at) {
    const { t, x, y } = track;
    let k = t.length - 1;
    while (k > 0 && t[k - 1] > at) k--;
    if (k === 0) return { x: x[0], y: y[0] };
    const part = Math.min((at - t[k - 1]) / (t[k] - t[k - 1] || 1), 1);
    return { x: x[k - 1] + (x[k] - x[k - 1]) * part, y: y[k - 1] + (y[k] - y[k - 1]) * part };
  }
}
