/**
 * The dashboard: follows the coordinator's live picture and hands it to map, charts, tables and the event log.
 *
 * @module
 */

import { follow, get, Refusal } from "./api.js";
import { Charts } from "./charts.js";
import { Dialogs } from "./dialogs.js";
import { byId, element, say } from "./dom.js";
import { clock, number, rate } from "./format.js";
import { WorldMap } from "./map.js";
import { Tables } from "./tables.js";

const EVENTS_SHOWN = 200;
const BLACKOUTS_SHOWN = 20;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;
/** @type {Record<string, "shard" | "gateway" | "coordinator">} */
const KIND_OF = { shards: "shard", gateways: "gateway", coordinators: "coordinator" };

/** @type {any} */
let picture = null;
let access = { read: true, token: false, development: false, add_shard: false };
/** @type {any[]} */
let events = [];
/** Number of the newest event that the first picture told: the stream goes on from there. */
let told = 0;
/** @type {any[]} */
let recoveries = [];
let following = new AbortController();

const dialogs = new Dialogs({ access: () => access, tokenChanged, picture: () => picture });
const charts = new Charts(byId("charts"));
const tables = new Tables({ open: openRow, failed: showFault });
const map = new WorldMap(
  { stage: byId("stage"), map: byId("map"), legend: byId("shards-legend"), arrows: byId("arrows") },
  {
    openZone: (zone) => dialogs.zone(zone, zoneOf(zone), readyShards()),
    openShard: (name) => openRow("shards", name),
    drop: (zone, shard) => zoneOf(zone).owner !== shard && dialogs.migrate(zone, shard),
    mayDrag: () => access.token,
  },
);
const figures = makeFigures(["players", "shards", "tick p99", "commit p99", "out", "leader"]);
const logFilter = /** @type {HTMLSelectElement} */ (byId("log-filter"));
logFilter.addEventListener("change", drawLog);
byId("access").addEventListener("click", () => dialogs.askToken());

// --- what is there ------------------------------------------------------------------------------------------------------

/** @param {number} zone */
function zoneOf(zone) {
  return zones()[zone];
}

function zones() {
  const fields = picture.zone_fields;
  return picture.zones.map((/** @type {any[]} */ row, /** @type {number} */ zone) =>
    Object.assign({ zone }, Object.fromEntries(fields.map((/** @type {string} */ name, /** @type {number} */ at) => [name, row[at]]))),
  );
}

function readyShards() {
  return picture.shards.filter((/** @type {any} */ shard) => shard.state === "ready").map((/** @type {any} */ shard) => shard.name);
}

/** @param {string} kind @param {string | number} key */
function openRow(kind, key) {
  if (kind === "players") void dialogs.player(String(key));
  else if (kind === "zones") dialogs.zone(Number(key), zoneOf(Number(key)), readyShards());
  else {
    const member = picture[kind].find((/** @type {any} */ found) => found.name === key);
    if (member) dialogs.member(member, KIND_OF[kind]);
  }
}

// --- what it looks like --------------------------------------------------------------------------------------------------

/** @param {string[]} names */
function makeFigures(names) {
  return Object.fromEntries(
    names.map((name) => {
      const value = element("dd", { class: "mono" }, "–");
      byId("figures").append(element("div", {}, element("dt", { text: name }), value));
      return [name, value];
    }),
  );
}

function draw() {
  const { world, totals } = picture;
  const budgetMs = 1000 / world.tick_hz;
  const rows = zones();
  const orphans = rows.filter((/** @type {any} */ zone) => !zone.owner).length;
  say(byId("world"), world.name ? `${world.name} · ${world.game} · ${world.columns}×${world.rows}` : "no world yet");
  say(figures.players, number(picture.players));
  say(figures.shards, `${readyShards().length} / ${picture.shards.length}`);
  say(figures["tick p99"], number(totals.tick_ms_p99, "ms"));
  figures["tick p99"].className = `mono ${totals.tick_ms_p99 > budgetMs ? "bad" : totals.tick_ms_p99 > budgetMs * 0.6 ? "warn" : ""}`;
  say(figures["commit p99"], number(totals.commit_ms_p99, "ms"));
  say(figures.out, rate(totals.bytes_s));
  say(figures.leader, picture.leader || "nobody");
  say(byId("map-hint"), access.token ? "drag a zone onto a shard, or press Enter on it" : "press Enter on a zone, or click it");
  const notices = [
    orphans && `${orphans} ${orphans === 1 ? "zone has" : "zones have"} no shard`,
    !picture.opened && "the ledger restarted; the world opens in a moment",
    picture.view_age_ms > 3000 && `the ledger was read ${Math.round(picture.view_age_ms / 1000)} s ago: what you see is old`,
  ].filter(Boolean);
  say(byId("notice"), notices.join(" · "));
  byId("notice").hidden = !notices.length;
  map.draw(world, rows, picture.shards, budgetMs);
  charts.draw(budgetMs);
  tables.draw({ shards: picture.shards, zones: rows, gateways: picture.gateways, coordinators: picture.coordinators, playerCount: [picture.players] });
}

/** @param {any[]} found @param {boolean} live */
function take(found, live) {
  for (const event of found) {
    events.unshift(event);
    if (event.kind === "recovered") recoveries.push(event);
    if (live && event.moves && ["failover", "migrated", "migrating"].includes(event.kind)) map.show(event.moves, event.kind);
  }
  events = events.slice(0, EVENTS_SHOWN);
  recoveries = recoveries.slice(-BLACKOUTS_SHOWN);
  drawLog();
  charts.drawBlackouts(recoveries);
}

function drawLog() {
  const kinds = logFilter.value ? logFilter.value.split(" ") : null;
  const shown = events.filter((event) => !kinds || kinds.includes(event.kind));
  const lines = shown.map((event) =>
    element("li", { class: `event ${event.kind}` }, element("time", { class: "mono faint", text: clock(event.at_ms) }), element("span", { text: event.text })),
  );
  if (!lines.length) lines.push(element("li", { class: "event faint" }, "nothing yet"));
  byId("log").replaceChildren(...lines);
}

function drawAccess() {
  const button = byId("access");
  say(button, access.token ? "Operator" : "Read only");
  button.classList.toggle("operator", access.token);
  button.setAttribute("aria-label", access.token ? "You may steer; change the admin token" : "Read only; give the admin token");
  document.getElementById("add-shard")?.remove();
  if (access.add_shard) {
    byId("shards-legend").after(element("button", { id: "add-shard", type: "button", class: "small", onclick: () => dialogs.addShard() }, "Add a shard…"));
  }
}

/** @param {"live" | "waiting" | "away"} state @param {string} text */
function connection(state, text) {
  const chip = byId("connection");
  chip.className = `chip ${state}`;
  say(chip, text);
}

/** @param {unknown} error */
function showFault(error) {
  connection("away", error instanceof Refusal ? error.message : "no connection; trying again");
}

// --- following ----------------------------------------------------------------------------------------------------------

async function tokenChanged() {
  access = await get("/access");
  drawAccess();
  following.abort();
}

async function begin() {
  access = await get("/access");
  drawAccess();
  if (!access.read) {
    connection("away", "the admin token is needed to look");
    if (!/** @type {HTMLDialogElement} */ (byId("dialog")).open) dialogs.askToken();
    return false;
  }
  const first = await get("/live");
  charts.begin(first.trend);
  events = [];
  recoveries = first.blackouts.slice(0, -1).filter((/** @type {any} */ event) => !first.events.some((/** @type {any} */ other) => other.id === event.id));
  picture = first;
  draw();
  take(first.events, false);
  told = first.told;
  return true;
}

async function run() {
  let waitMs = FIRST_WAIT_MS;
  for (;;) {
    following = new AbortController();
    try {
      if (await begin()) {
        await follow(`/live/stream?since=${told}`, received, following.signal);
        connection("waiting", "the coordinator ended; trying again");
      }
      waitMs = FIRST_WAIT_MS;
    } catch (error) {
      if (!following.signal.aborted) showFault(error);
    }
    await new Promise((resolve) => {
      setTimeout(resolve, following.signal.aborted ? 0 : waitMs);
      following.signal.addEventListener("abort", resolve);
    });
    waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS);
  }
}

/** @param {string} kind @param {any} data */
function received(kind, data) {
  if (kind === "log") take(data, true);
  if (kind !== "picture") return;
  picture = data;
  charts.add(data.totals);
  connection("live", `live · ${data.answered_by}${data.leading ? "" : " (stands by)"}`);
  if (!document.hidden) draw();
}

void run();
