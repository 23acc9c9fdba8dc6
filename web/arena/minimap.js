/**
 * The world in a corner: zones in the colour of the shard that runs each, who is in sight, and oneself.
 *
 * @module
 */

import { ownerColour } from "../colours.js";

export class Minimap {
  /** @param {HTMLCanvasElement} canvas @param {HTMLElement} legend @param {{width: number, height: number, interest: number}} world */
  constructor(canvas, legend, world) {
    this.canvas = canvas;
    this.legend = legend;
    this.world = world;
    this.ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  }

  /** @param {{owners: string[]}} map */
  tellOwners(map) {
    this.legend.replaceChildren(
      ...[...new Set(map.owners)].sort().map((owner) => {
        const item = document.createElement("li");
        const swatch = document.createElement("canvas");
        swatch.width = swatch.height = 8;
        const ctx = /** @type {CanvasRenderingContext2D} */ (swatch.getContext("2d"));
        ctx.fillStyle = ownerColour(owner);
        ctx.fillRect(0, 0, 8, 8);
        item.append(swatch, owner || "nobody");
        return item;
      }),
    );
  }

  /**
   * @param {{columns: number, rows: number, owners: string[]} | null} map @param {{x: number, y: number}} me
   * @param {{entity: any, x: number, y: number}[]} shown @param {number} meId
   */
  draw(map, me, shown, meId) {
    const { ctx, canvas, world } = this;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const size = Math.round(canvas.clientWidth * ratio);
    if (!size) return;
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const [sx, sy] = [size / world.width, size / world.height];
    ctx.fillStyle = "#080d18";
    ctx.fillRect(0, 0, size, size);
    if (map) {
      const [width, height] = [size / map.columns, size / map.rows];
      for (const [zone, owner] of map.owners.entries()) {
        const [x, y] = [(zone % map.columns) * width, Math.floor(zone / map.columns) * height];
        ctx.fillStyle = ownerColour(owner);
        ctx.globalAlpha = 0.32;
        ctx.fillRect(x + 0.5 * ratio, y + 0.5 * ratio, width - ratio, height - ratio);
        ctx.globalAlpha = 0.9;
        ctx.strokeStyle = ownerColour(owner);
        ctx.lineWidth = ratio * 0.75;
        ctx.strokeRect(x + ratio, y + ratio, width - 2 * ratio, height - 2 * ratio);
      }
      ctx.globalAlpha = 1;
    }
    ctx.strokeStyle = "rgba(255, 255, 255, 0.4)";
    ctx.lineWidth = ratio;
    ctx.beginPath();
    ctx.arc(me.x * sx, me.y * sy, world.interest * sx, 0, 7);
    ctx.stroke();
    for (const { entity, x, y } of shown) {
      if (!entity.plan.type.avatar || entity.id === meId) continue;
      ctx.fillStyle = entity.fields.drone ? "#ff6b6b" : "#ffe0b0";
      ctx.fillRect(x * sx - ratio, y * sy - ratio, 2 * ratio, 2 * ratio);
    }
    ctx.fillStyle = "#ffffff";
    ctx.beginPath();
    ctx.arc(me.x * sx, me.y * sy, 2.4 * ratio, 0, 7);
    ctx.fill();
  }
}
