/**
 * One's own ship ahead of the server: commands are run at once, and run again on top of every snapshot (reconciliation). What the
 * server decided otherwise is not jumped to but drawn in over some frames. Knows no socket and no canvas.
 *
 * @module
 */

import { fly, headingOf } from "./ship_rules.js";

const SMOOTH_MS = 90;
const JUMP = 150;

export class Prediction {
  /** @param {{width: number, height: number}} world @param {number} dtS */
  constructor(world, dtS) {
    this.world = world;
    this.dtS = dtS;
    this.before = { x: 0, y: 0 };
    this.now = { x: 0, y: 0 };
    this.error = { x: 0, y: 0 };
    this.heading = 0;
    this.begun = false;
  }

  /** A tick has passed in which a command was sent. @param {number} mx @param {number} my */
  command(mx, my) {
    this.idle();
    fly(this.now, mx, my, this.dtS, this.world);
    this.heading = headingOf(mx, my, this.heading);
  }

  /** A tick has passed in which none was. */
  idle() {
    this.before.x = this.now.x;
    this.before.y = this.now.y;
  }

  /**
   * What the server says, and the commands that it has not applied yet.
   *
   * @param {{x: number, y: number, heading?: number}} truth @param {{values: (number | boolean)[]}[]} pending
   */
  reconcile(truth, pending) {
    const ship = { x: truth.x, y: truth.y };
    if (!pending.length && truth.heading !== undefined) this.heading = truth.heading;
    for (const { values } of pending) fly(ship, Number(values[0]), Number(values[1]), this.dtS, this.world);
    const dx = this.now.x - ship.x;
    const dy = this.now.y - ship.y;
    this.now = ship;
    if (!this.begun || Math.hypot(this.error.x + dx, this.error.y + dy) > JUMP) {
      this.begun = true;
      this.before = { ...ship };
      this.error = { x: 0, y: 0 };
      return;
    }
    this.before.x -= dx;
    this.before.y -= dy;
    this.error.x += dx;
    this.error.y += dy;
  }

  /** Where to draw the ship, a `fraction` of a tick after the last one. @param {number} fraction @param {number} elapsedMs since the last frame */
  at(fraction, elapsedMs) {
    const keep = Math.exp(-elapsedMs / SMOOTH_MS);
    this.error.x *= keep;
    this.error.y *= keep;
    const part = Math.min(fraction, 1);
    return {
      x: this.before.x + (this.now.x - this.before.x) * part + this.error.x,
      y: this.before.y + (this.now.y - this.before.y) * part + this.error.y,
    };
  }
}
