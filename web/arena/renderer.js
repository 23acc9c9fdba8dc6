/**
 * Draws one frame of the world on a canvas: space, the grid, zone borders, coins, bullets, ships, names. Decides nothing.
 *
 * @module
 */

import { ownerColour } from "../colours.js";
import { SHIP_RADIUS } from "./ship_rules.js";

/**
 * @typedef {{entity: import("../sdk/world_view.js").EntityView, x: number, y: number, leaving: boolean}} Shown
 * @typedef {{x: number, y: number, heading: number}} Own
 * @typedef {{nowMs: number, elapsedMs: number, shown: Shown[], own: Own | null, meId: number, camera: {x: number, y: number},
 *   map: {columns: number, rows: number, owners: string[]} | null, names: (id: number) => string, frozen: Set<number>}} Frame
 */

const GRID = 128;
const STARS = 150;
const TILE = 512;
const HULLS = ["#ffb86b", "#b69cff", "#7ee0c0", "#ff9ecb", "#f2e27a", "#8fc7ff"];
const OWN = "#5cd6ff";
const DRONE = "#ff6b6b";

/** @param {string} colour @param {number} radius @returns {HTMLCanvasElement} a soft round light, drawn once */
function glowOf(colour, radius) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = radius * 2;
  const ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const light = ctx.createRadialGradient(radius, radius, 0, radius, radius, radius);
  light.addColorStop(0, `${colour}aa`);
  light.addColorStop(0.35, `${colour}38`);
  light.addColorStop(1, `${colour}00`);
  ctx.fillStyle = light;
  ctx.fillRect(0, 0, radius * 2, radius * 2);
  return canvas;
}

export class Renderer {
  /** @param {HTMLCanvasElement} canvas @param {import("../sdk/world_view.js").Schema} schema @param {import("./effects.js").Effects} effects */
  constructor(canvas, schema, effects) {
    this.canvas = canvas;
    this.ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    this.schema = schema;
    this.effects = effects;
    this.scale = 1;
    /** @type {Map<string, HTMLCanvasElement>} */ this.glows = new Map();
    this.ratio = 1;
    this.backdrop = this.nebula(1, 1);
    this.layers = [0.12, 0.3, 0.55].map((depth, layer) => ({ depth, tile: this.starTile(layer) }));
    this.resize();
  }

  resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    // The corners of the screen are as far as one can see, so that nothing pops up inside of it.
    this.scale = Math.max(Math.hypot(this.canvas.width, this.canvas.height) / (2 * this.schema.interest), 0.4);
    this.ratio = ratio;
    this.backdrop = this.nebula(this.canvas.width, this.canvas.height);
  }

  /** Space without its stars, drawn once for each size. @private @param {number} width @param {number} height */
  nebula(width, height) {
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = [width, height];
    const ctx = /** @type {CanvasRenderingContext2D} */ (sheet.getContext("2d", { alpha: false }));
    ctx.fillStyle = "#05070d";
    ctx.fillRect(0, 0, width, height);
    /** @type {[number, number, string, string][]} */
    const lights = [[0.25, 0.15, "rgba(48, 72, 150, 0.42)", "rgba(30, 26, 74, 0)"], [0.85, 0.9, "rgba(96, 38, 110, 0.26)", "rgba(60, 20, 74, 0)"]];
    for (const [x, y, inner, outer] of lights) {
      const light = ctx.createRadialGradient(width * x, height * y, 0, width * x, height * y, Math.max(width, height) * 0.8);
      light.addColorStop(0, inner);
      light.addColorStop(1, outer);
      ctx.fillStyle = light;
      ctx.fillRect(0, 0, width, height);
    }
    return sheet;
  }

  /** @private @param {number} layer */
  starTile(layer) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = TILE;
    const ctx = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
    for (let k = 0; k < STARS / (layer + 1); k++) {
      const tint = ["#cfe3ff", "#ffffff", "#ffe9cf", "#b9ccff"][k % 4];
      ctx.globalAlpha = 0.15 + 0.5 * Math.random() * ((layer + 1) / 3);
      ctx.fillStyle = tint;
      ctx.beginPath();
      ctx.arc(Math.random() * TILE, Math.random() * TILE, 0.4 + Math.random() * 0.5 * (layer + 1), 0, 7);
      ctx.fill();
    }
    return tile;
  }

  /** @private @param {string} colour @param {number} x @param {number} y @param {number} radius */
  glow(colour, x, y, radius) {
    let light = this.glows.get(colour);
    if (!light) this.glows.set(colour, (light = glowOf(colour, 64)));
    this.ctx.drawImage(light, x - radius, y - radius, 2 * radius, 2 * radius);
  }

  /** @param {Frame} frame */
  draw(frame) {
    const { ctx, canvas, scale } = this;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    this.space(frame.camera);
    const shake = this.effects.shake;
    const jolt = () => (shake > 0.3 ? (Math.random() - 0.5) * shake : 0);
    ctx.setTransform(scale, 0, 0, scale, canvas.width / 2 - (frame.camera.x + jolt()) * scale, canvas.height / 2 - (frame.camera.y + jolt()) * scale);
    this.ground(frame);
    const ships = [];
    for (const shown of frame.shown) {
      const type = shown.entity.type;
      if (shown.entity.plan.type.avatar) ships.push(shown);
      else if (type === "coin") this.coin(shown, frame.nowMs);
      else if (type === "bullet") this.bullet(shown);
      else this.dot(shown, HULLS[shown.entity.plan.index % HULLS.length]);
    }
    for (const shown of ships) if (shown.entity.id !== frame.meId) this.ship(shown, frame);
    this.effects.draw(ctx, frame.nowMs, frame.elapsedMs);
    for (const shown of ships) {
      if (shown.entity.id !== frame.meId) continue;
      this.ship(frame.own ? { ...shown, ...frame.own } : shown, frame, frame.own?.heading);
    }
  }

  /** @private @param {{x: number, y: number}} camera */
  space(camera) {
    const { ctx, canvas } = this;
    const [width, height] = [canvas.width, canvas.height];
    ctx.drawImage(this.backdrop, 0, 0);
    for (const { depth, tile } of this.layers) {
      const size = TILE * this.ratio;
      const offX = -(((camera.x * depth * this.scale) % size) + size) % size;
      const offY = -(((camera.y * depth * this.scale) % size) + size) % size;
      for (let x = offX; x < width; x += size) for (let y = offY; y < height; y += size) ctx.drawImage(tile, x, y, size, size);
    }
  }

  /** @private @param {Frame} frame */
  ground(frame) {
    const { ctx, canvas, scale, schema } = this;
    const [halfWidth, halfHeight] = [canvas.width / 2 / scale, canvas.height / 2 / scale];
    const [left, right] = [Math.max(frame.camera.x - halfWidth, 0), Math.min(frame.camera.x + halfWidth, schema.width)];
    const [top, bottom] = [Math.max(frame.camera.y - halfHeight, 0), Math.min(frame.camera.y + halfHeight, schema.height)];
    ctx.strokeStyle = "rgba(120, 160, 230, 0.13)";
    ctx.lineWidth = 1 / scale;
    ctx.beginPath();
    for (let x = Math.ceil(left / GRID) * GRID; x <= right; x += GRID) {
      ctx.moveTo(x, top);
      ctx.lineTo(x, bottom);
    }
    for (let y = Math.ceil(top / GRID) * GRID; y <= bottom; y += GRID) {
      ctx.moveTo(left, y);
      ctx.lineTo(right, y);
    }
    ctx.stroke();
    if (frame.map) this.borders(frame.map, left, right, top, bottom);
    ctx.strokeStyle = "rgba(255, 96, 121, 0.65)";
    ctx.lineWidth = 3;
    ctx.strokeRect(0, 0, schema.width, schema.height);
  }

  /** Each side of a border in the colour of the shard that runs it. @private */
  borders(
    /** @type {{columns: number, rows: number, owners: string[]}} */ map,
    /** @type {number} */ left, /** @type {number} */ right, /** @type {number} */ top, /** @type {number} */ bottom,
  ) {
    const { ctx } = this;
    const [width, height] = [this.schema.width / map.columns, this.schema.height / map.rows];
    for (let row = Math.floor(top / height); row <= Math.min(Math.floor(bottom / height), map.rows - 1); row++) {
      for (let column = Math.floor(left / width); column <= Math.min(Math.floor(right / width), map.columns - 1); column++) {
        const owner = map.owners[row * map.columns + column];
        const colour = ownerColour(owner);
        const [x, y] = [column * width, row * height];
        ctx.strokeStyle = colour;
        ctx.globalAlpha = 0.09;
        ctx.lineWidth = 14;
        ctx.strokeRect(x + 7, y + 7, width - 14, height - 14);
        ctx.globalAlpha = 0.5;
        ctx.lineWidth = 1.5;
        ctx.strokeRect(x + 1, y + 1, width - 2, height - 2);
        ctx.globalAlpha = 0.55;
        ctx.fillStyle = colour;
        ctx.font = "600 10px ui-monospace, Menlo, Consolas, monospace";
        ctx.textAlign = "left";
        ctx.fillText(`zone ${row * map.columns + column} · ${owner || "nobody"}`, x + 20, y + 32);
        ctx.globalAlpha = 1;
      }
    }
  }

  /** @private @param {Shown} shown @param {number} nowMs */
  coin(shown, nowMs) {
    const { ctx } = this;
    const big = Math.min(5 + Math.log2(Math.max(shown.entity.fields.value, 1)), 14);
    this.glow("#ffd56b", shown.x, shown.y, big * 3);
    const turn = Math.abs(Math.cos(nowMs / 420 + shown.entity.id));
    ctx.fillStyle = "#ffd56b";
    ctx.strokeStyle = "#fff3c9";
    ctx.lineWidth = 1;
    ctx.beginPath();
    ctx.ellipse(shown.x, shown.y, Math.max(big * turn, 1.2), big, 0, 0, 7);
    ctx.fill();
    ctx.stroke();
  }

  /** @private @param {Shown} shown */
  bullet(shown) {
    this.glow("#9fe8ff", shown.x, shown.y, 12);
    this.ctx.fillStyle = "#f2fcff";
    this.ctx.beginPath();
    this.ctx.arc(shown.x, shown.y, 2.6, 0, 7);
    this.ctx.fill();
  }

  /** @private @param {Shown} shown @param {string} colour */
  dot(shown, colour) {
    this.glow(colour, shown.x, shown.y, 26);
    this.ctx.fillStyle = colour;
    this.ctx.beginPath();
    this.ctx.arc(shown.x, shown.y, 8, 0, 7);
    this.ctx.fill();
  }

  /** @private @param {Shown} shown @param {Frame} frame @param {number} [heading] */
  ship(shown, frame, heading) {
    const { ctx } = this;
    const { fields, id } = shown.entity;
    const own = id === frame.meId;
    const colour = own ? OWN : fields.drone ? DRONE : HULLS[id % HULLS.length];
    if (fields.alive === 0) return;
    if (fields.heading === undefined) this.dot(shown, own ? OWN : fields.it ? DRONE : colour);
    else {
      this.glow(colour, shown.x, shown.y, own ? 46 : 36);
      ctx.save();
      ctx.translate(shown.x, shown.y);
      ctx.rotate(((heading ?? fields.heading) * Math.PI) / 4);
      ctx.globalAlpha = frame.frozen.has(id) ? 0.45 : 1;
      this.hull(colour, fields.drone === 1);
      ctx.restore();
    }
    this.label(shown, frame.names(id), own);
  }

  /** @private @param {string} colour @param {boolean} drone */
  hull(colour, drone) {
    const { ctx } = this;
    const r = SHIP_RADIUS;
    ctx.beginPath();
    if (drone) {
      for (const [k, far] of [1.05, 0.62, 1, 0.62, 1, 0.62].entries()) {
        ctx.lineTo(Math.cos((k * Math.PI) / 3) * r * far, Math.sin((k * Math.PI) / 3) * r * far);
      }
    } else {
      ctx.moveTo(r * 1.25, 0);
      ctx.lineTo(-r * 0.85, r * 0.9);
      ctx.lineTo(-r * 0.4, 0);
      ctx.lineTo(-r * 0.85, -r * 0.9);
    }
    ctx.closePath();
    ctx.fillStyle = "#0d1526";
    ctx.fill();
    ctx.fillStyle = `${colour}55`;
    ctx.fill();
    ctx.strokeStyle = colour;
    ctx.lineWidth = 1.8;
    ctx.lineJoin = "round";
    ctx.stroke();
    ctx.fillStyle = "#ffffffd0";
    ctx.beginPath();
    ctx.arc(r * (drone ? 0 : 0.22), 0, 2.2, 0, 7);
    ctx.fill();
  }

  /** @private @param {Shown} shown @param {string} name @param {boolean} own */
  label(shown, name, own) {
    const { ctx } = this;
    const { hp } = shown.entity.fields;
    if (hp !== undefined && hp < 100) {
      ctx.fillStyle = "rgba(10, 16, 30, 0.8)";
      ctx.fillRect(shown.x - 16, shown.y - 24, 32, 4);
      ctx.fillStyle = hp > 60 ? "#54e3a6" : hp > 30 ? "#ffc75f" : "#ff6079";
      ctx.fillRect(shown.x - 16, shown.y - 24, (32 * Math.max(hp, 0)) / 100, 4);
    }
    if (!name || own) return;
    ctx.font = "600 10.5px ui-sans-serif, system-ui, sans-serif";
    ctx.textAlign = "center";
    ctx.lineWidth = 3;
    ctx.strokeStyle = "rgba(5, 7, 13, 0.85)";
    ctx.strokeText(name, shown.x, shown.y + 28);
    ctx.fillStyle = "#d7e2f7";
    ctx.fillText(name, shown.x, shown.y + 28);
  }
}
