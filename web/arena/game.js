/**
 * One stay in the world: takes what the client hears, sends the player's intent each tick, and draws each frame.
 *
 * Plays the arena with prediction; any other game with fields x and y as dots, steered where it has a command with mx and my.
 *
 * @module
 */

import { Notice } from "../perdure.js";
import { Effects } from "./effects.js";
import { Hud, part } from "./hud.js";
import { Minimap } from "./minimap.js";
import { Motion } from "./motion.js";
import { Prediction } from "./prediction.js";
import { Renderer } from "./renderer.js";

const DIED_MS = 150;
const SILENT_MS = 1200;
const SPARE_TICKS = 4;
const NO_ID = -1;

export class Game {
  /** @param {import("../perdure.js").Client} client connected @param {import("./input.js").Input} input @param {HTMLCanvasElement} canvas */
  constructor(client, input, canvas) {
    const { schema } = client.protocol;
    if (!schema) throw new Error("the client has no schema yet");
    this.client = client;
    this.input = input;
    this.schema = schema;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.hud = new Hud();
    this.effects = new Effects(this.calm);
    this.motion = new Motion();
    this.renderer = new Renderer(canvas, schema, this.effects);
    this.minimap = new Minimap(/** @type {HTMLCanvasElement} */ (part("minimap")), part("shards"), schema);
    this.arena = schema.name === "arena";
    this.steering = schema.commands.find((command) => ["mx", "my"].every((name) => command.fields.some((field) => field.name === name)));
    this.canFire = this.steering?.fields.some((field) => field.name === "fire") ?? false;
    this.tickMs = 1000 / schema.tick_hz;
    this.prediction = new Prediction(schema, 1 / schema.tick_hz);
    this.camera = { x: 0, y: 0 };
    this.last = { mx: 0, my: 0 };
    this.sinceTickMs = 0;
    this.lastFrameMs = 0;
    this.frames = 0;
    this.fps = 0;
    this.pingMs = 0;
    this.gapMs = 0;
    /** @type {{text: string, zone: number} | null} */ this.failover = null;
    this.paused = false;
    this.pacePercent = 100;
    /** @type {Map<bigint, string>} by key of the player; "" while it is asked for */ this.names = new Map();
    /** @type {Set<number>} */ this.frozenZones = new Set();
    this.wasAlive = true;
    this.running = true;
    /** @type {(() => void)[]} */ this.stops = [];
    /** @type {ReturnType<typeof setInterval>[]} */ this.timers = [];
  }

  start() {
    const { client } = this;
    this.motion.pace(this.tickMs);
    if (client.protocol.map) this.minimap.tellOwners(client.protocol.map);
    this.stops = [
      client.on("snapshot", ({ snapshot }) => this.snapshot(snapshot)),
      client.on("notice", (notice) => this.notice(notice)),
      client.on("map", (map) => this.minimap.tellOwners(map)),
      client.on("pace", (pace) => this.pace(pace)),
      client.on("stale", ({ frozen }) => (this.frozenZones = new Set(frozen))),
      client.on("names", ({ names }) => this.told(names)),
      client.on("disconnect", ({ again, reason }) => again && this.hud.say(`Connection lost${reason ? ` (${reason})` : ""}: reconnecting…`)),
      client.on("welcome", () => this.hud.say("")),
    ];
    this.timers = [setInterval(() => this.everySecond(), 1000)];
    const resized = () => this.renderer.resize();
    const hidden = () => document.hidden && this.halt();
    addEventListener("resize", resized);
    document.addEventListener("visibilitychange", hidden);
    this.stops.push(() => removeEventListener("resize", resized), () => document.removeEventListener("visibilitychange", hidden));
    this.everySecond();
    requestAnimationFrame((ms) => this.frame(ms));
  }

  stop() {
    this.running = false;
    for (const stop of this.stops) stop();
    for (const timer of this.timers) clearInterval(timer);
    this.hud.say("");
  }

  // --- what the client hears ----------------------------------------------------------------------------------------

  /** @private @param {import("../sdk/world_view.js").Snapshot} snapshot */
  snapshot(snapshot) {
    const { world, protocol } = this.client;
    if (!world) return;
    const nowMs = performance.now();
    this.gapMs = this.lastSnapshotMs ? nowMs - this.lastSnapshotMs : 0;
    this.lastSnapshotMs = nowMs;
    if (this.failover) this.tellFailover(this.failover);
    const t = this.motion.take(world, snapshot, nowMs);
    const { me } = world;
    if (me) {
      if (this.arena) this.prediction.reconcile(/** @type {any} */ (me.fields), protocol.pending);
      this.hud.own(me.fields, this.arena);
      if (this.arena) this.lifeOf(me.fields);
    }
    if (snapshot.entered.length) this.askNames(snapshot.entered);
    for (const event of snapshot.events) this.effects.later(t, () => this.show(event));
  }

  /** Whoever came into sight has a name, unless nobody plays it. @private @param {number[]} entered */
  askNames(entered) {
    const keys = entered.map((id) => this.client.world?.entities.get(id)?.key ?? 0n).filter((key) => key && !this.names.has(key));
    for (const key of keys) this.names.set(key, "");
    if (keys.length) this.client.who([...new Set(keys)]);
  }

  /** @private @param {Map<bigint, string>} names */
  told(names) {
    for (const [key, name] of names) {
      if (name) this.names.set(key, name);
      else this.names.delete(key); // asked for again when it next comes into sight
    }
  }

  /** @private @param {Record<string, number>} fields */
  lifeOf(fields) {
    const alive = fields.alive !== 0;
    if (alive !== this.wasAlive) this.hud.say(alive ? "" : "You were destroyed; a new ship is on its way.");
    this.wasAlive = alive;
  }

  /** The server lost or moved the zone: how long did the picture stand still? @private @param {{text: string, zone: number}} failover */
  tellFailover(failover) {
    const gap = Math.round(this.gapMs);
    const died = gap >= DIED_MS;
    this.hud.toast(died ? `Your shard died ${gap} ms ago` : "Your zone moved", `${failover.text}. ${died ? "You go on where you were." : `${gap} ms between two snapshots.`}`, died ? "warn" : "good");
    this.failover = null;
    this.hud.say("");
    this.paused = false;
  }

  /** @private @param {{notice: number, zone: number, text: string}} notice */
  notice({ notice, zone, text }) {
    if (notice === Notice.FAILED_OVER) this.failover = { text, zone };
    else if (notice === Notice.PAUSED || notice === Notice.RESUMED) {
      this.paused = notice === Notice.PAUSED;
      this.hud.say(this.paused ? `Paused: ${text}` : "");
      if (!this.paused) this.hud.toast("The world goes on", text, "good");
    }
  }

  /** @private @param {{zone: number, clockPercent: number, snapshotEvery: number}} pace */
  pace({ zone, clockPercent, snapshotEvery }) {
    this.tickMs = 100_000 / this.schema.tick_hz / Math.max(clockPercent, 1);
    this.motion.pace(this.tickMs, snapshotEvery);
    if (clockPercent < 100) this.hud.say(`Zone ${zone} is crowded: its clock runs at ${clockPercent} %`);
    else if (this.pacePercent < 100) this.hud.say("");
    this.pacePercent = clockPercent;
  }

  /** @private @param {import("../sdk/world_view.js").GameEvent} event */
  show({ name, fields }) {
    const track = [...this.motion.tracks.values()].find(({ entity }) => entity.id % 4294967296 === fields.who);
    if (!track) return;
    const own = track.entity.id === this.client.world?.meId;
    const { x, y } = own && this.arena ? this.prediction.now : this.motion.position(track, performance.now() - this.motion.delayMs);
    const { effects } = this;
    if (name === "hit") {
      effects.burst(x, y, ["#ffd9a0", "#ff8f6b", "#ffffff"], 14, 190, 420);
      effects.words(x, y - 22, `-${fields.damage}`, own ? "#ff6079" : "#ffc9a3");
      if (own && !this.calm) effects.shake = 7;
    } else if (name === "died") {
      effects.burst(x, y, ["#ff6b6b", "#ffb86b", "#fff2c9", "#5cd6ff"], 54, 300, 900);
      effects.ring(x, y, "#ffb86b", 70);
      if (own && !this.calm) effects.shake = 16;
    } else if (name === "picked") {
      effects.burst(x, y, ["#ffd56b", "#fff3c9"], 12, 120, 500);
      effects.words(x, y - 22, `+${fields.value}`, "#ffd56b");
    } else {
      effects.ring(x, y, "#5cd6ff", 40);
    }
  }

  // --- what the player wants ----------------------------------------------------------------------------------------

  /** Stop the ship: the page is hidden, or a menu is open. The rules would fly on as last told. */
  halt() {
    this.input.release();
    if (this.last.mx || this.last.my) this.send({ mx: 0, my: 0, fire: false });
  }

  /** @private One tick of the game's clock. */
  tick() {
    const intent = this.input.intent();
    const idle = !intent.mx && !intent.my && !intent.fire && !this.last.mx && !this.last.my;
    const { protocol } = this.client;
    // After a gap the zone works off what was sent meanwhile, one command a tick: send a little less until that is done.
    const behind = protocol.pending.length > SPARE_TICKS + this.pingMs / this.tickMs && this.ticks % 2 === 1;
    this.ticks++;
    if (idle || behind || !protocol.ready || !this.wasAlive || !this.steering) this.prediction.idle();
    else this.send(intent);
  }

  /** @private @param {{mx: number, my: number, fire: boolean}} intent */
  send({ mx, my, fire }) {
    if (!this.steering || !this.client.protocol.ready || this.client.ended) return;
    this.client.send(this.steering.name, this.canFire ? { mx, my, fire } : { mx, my });
    this.prediction.command(mx, my);
    this.last = { mx, my };
    if ((mx || my) && this.arena && !this.calm) this.trail(mx, my);
  }

  /** @private @param {number} mx @param {number} my */
  trail(mx, my) {
    const { x, y } = this.prediction.before;
    const far = Math.hypot(mx, my);
    this.effects.add({ x: x - (mx / far) * 11, y: y - (my / far) * 11, vx: -mx * 40, vy: -my * 40, size: 1.8, lifeMs: 320, colour: "#5cd6ff" });
  }

  // --- time ---------------------------------------------------------------------------------------------------------

  /** @private @param {number} nowMs */
  frame(nowMs) {
    if (!this.running) return;
    const elapsedMs = Math.min(nowMs - (this.lastFrameMs || nowMs), 250);
    this.lastFrameMs = nowMs;
    this.frames++;
    this.sinceTickMs += elapsedMs;
    while (this.sinceTickMs >= this.tickMs) {
      this.sinceTickMs -= this.tickMs;
      this.tick();
    }
    this.effects.fire(nowMs - this.motion.delayMs);
    const shown = this.motion.shown(nowMs);
    const meId = this.client.world?.meId ?? NO_ID;
    const mine = shown.find(({ entity }) => entity.id === meId);
    const at = this.arena && mine ? this.prediction.at(this.sinceTickMs / this.tickMs, elapsedMs) : mine;
    if (at) this.camera = { x: at.x, y: at.y };
    const { map } = this.client.protocol;
    const own = this.arena && at ? { ...at, heading: this.prediction.heading } : null;
    const names = (/** @type {number} */ id) => this.names.get(this.client.world?.entities.get(id)?.key ?? 0n) ?? "";
    this.renderer.draw({ nowMs, elapsedMs, shown, own, meId, camera: this.camera, map, names, frozen: this.frozen(shown, map) });
    if (this.frames % 6 === 0) this.minimap.draw(map, this.camera, shown, meId);
    requestAnimationFrame((ms) => this.frame(ms));
  }

  /** @private @param {{entity: {id: number}, x: number, y: number}[]} shown @param {{columns: number, rows: number} | null} map @returns {Set<number>} */
  frozen(shown, map) {
    if (!map || !this.frozenZones.size) return new Set();
    const { width, height } = this.schema;
    const zoneOf = (/** @type {{x: number, y: number}} */ { x, y }) =>
      Math.floor((y / height) * map.rows) * map.columns + Math.floor((x / width) * map.columns);
    return new Set(shown.filter((one) => this.frozenZones.has(zoneOf(one))).map(({ entity }) => entity.id));
  }

  /** @private */
  everySecond() {
    this.fps = this.frames;
    this.frames = 0;
    const { client } = this;
    client.ping().then((ms) => (this.pingMs = ms), () => {}); // no connection now: the line above says so
    const silentMs = performance.now() - client.lastSnapshotMs;
    if (client.connected && silentMs > SILENT_MS && !this.paused) {
      this.hud.say(`No word from your zone for ${(silentMs / 1000).toFixed(0)} s: another shard takes it over`);
      this.silent = true;
    } else if (this.silent && silentMs < SILENT_MS) {
      this.hud.say("");
      this.silent = false;
    }
    const zone = client.world?.zone ?? -1;
    const owner = client.protocol.map?.owners[zone] || "nobody";
    this.hud.set("latency", `${Math.round(this.pingMs)} ms`);
    this.hud.set("fps", `${this.fps} fps`);
    this.hud.set("place", `zone ${zone} · ${owner}`);
    this.hud.set("seen", `${[...(client.world?.entities.values() ?? [])].filter((entity) => entity.plan.type.avatar).length} in sight`);
  }

  lastSnapshotMs = 0;
  ticks = 0;
  silent = false;
}
