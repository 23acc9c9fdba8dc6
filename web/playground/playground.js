/**
 * The playground: join a world as any player, send what its schema allows, see what comes, and make the network worse. Knows no game:
 * all that is shown is made from the schema that the gateway's welcome brings.
 *
 * @module
 */

import { Client } from "../perdure.js";
import { commandForms } from "./forms.js";
import { Line, socketsOver } from "./network.js";
import { drawMap, fillFigures, fillTables, LogView } from "./panels.js";

const DRAW_EVERY_MS = 200;
const MAX_PLAYERS = 8;

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** One player who has joined, and what the page keeps of it. */
class Joined {
  /** @param {string} name @param {Client} client @param {Line} line */
  constructor(name, client, line) {
    this.name = name;
    this.client = client;
    this.line = line;
    this.log = new LogView();
    this.gapMs = 0;
    this.pingMs = NaN;
    /** @type {{columns: number, rows: number, owners: string[]} | null} */ this.map = null;
    let lastMs = 0;
    client.on("snapshot", ({ snapshot }) => {
      const now = performance.now();
      this.gapMs = lastMs ? now - lastMs : 0;
      lastMs = now;
      if (snapshot.keyframe) this.log.add("snapshot", `keyframe of zone ${snapshot.zone}, tick ${snapshot.tick}`);
      for (const event of snapshot.events) this.log.add("event", `${event.name} ${JSON.stringify(event.fields)}`);
    });
    client.on("welcome", ({ welcome }) => this.log.add("welcome", `session ${welcome.session} at ${welcome.gateway}, zone ${welcome.zone}`));
    client.on("notice", ({ notice, zone, text }) => this.log.add("notice", `${notice} zone ${zone}: ${text}`));
    client.on("refused", ({ seq, text }) => this.log.add("refused", `command ${seq}: ${text}`));
    client.on("chat", ({ from, to, text }) => this.log.add("chat", `${from || "the server"}${to && ` to ${to}`}: ${text}`));
    client.on("pace", ({ zone, clockPercent, snapshotEvery, farEvery }) =>
      this.log.add("pace", `zone ${zone}: clock ${clockPercent} %, a snapshot every ${snapshotEvery} ticks, what is far every ${farEvery}`));
    client.on("queued", ({ position, estimateS }) => this.log.add("queued", `position ${position}, about ${estimateS} s`));
    client.on("stale", ({ zone, frozen }) => this.log.add("stale", `seen from zone ${zone}, frozen: ${frozen.join(", ") || "none"}`));
    client.on("map", (map) => {
      this.map = map;
      this.log.add("map", map.owners.map((owner, zone) => `${zone}: ${owner || "nobody"}`).join(", "));
    });
    client.on("disconnect", ({ code, reason, again }) =>
      this.log.add("socket", `ended with ${code} ${reason}${again ? "; tries again" : ""}`));
    this.pinging = setInterval(() => client.ping().then((ms) => (this.pingMs = ms), () => (this.pingMs = NaN)), 1000);
  }
}

/** @type {Map<string, Joined>} */ const joined = new Map();
/** @type {Joined | null} */ let shown = null;
let login = "token";

function say(/** @type {string} */ text) {
  $("status").textContent = text;
}

/** @param {string} name @returns {Promise<string>} */
async function tokenFor(name) {
  const answer = await fetch(`/dev/token?name=${encodeURIComponent(name)}`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error ?? "no token");
  return body.token;
}

/** Name of the player whom a token is for: what the server says later counts. @param {string} token */
function nameIn(token) {
  try {
    return String(JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).sub);
  } catch {
    return "player";
  }
}

async function join(/** @type {string} */ typed) {
  const name = login === "name" ? typed : nameIn(typed);
  if (joined.has(name)) return show(name);
  if (joined.size >= MAX_PLAYERS) return say(`This page plays ${MAX_PLAYERS} players at most: leave with one of them.`);
  say(`${name} joins`);
  const line = new Line();
  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
  const client = new Client(url, { token: login === "name" ? () => tokenFor(name) : typed, WebSocket: socketsOver(line) });
  const one = new Joined(name, client, line);
  client.on("end", (error) => gone(one, error.message));
  try {
    await client.connect();
  } catch (error) {
    say(`${name} did not get in: ${error instanceof Error ? error.message : error}`);
    return;
  }
  joined.set(name, one);
  say(`${name} is in the world`);
  $("name").value = "";
  show(name);
  $("main").focus();
}

/** @param {Joined} one @param {string} why */
function gone(one, why) {
  clearInterval(one.pinging);
  if (!joined.delete(one.name)) return;
  say(`${one.name} has left: ${why}`);
  const next = joined.keys().next();
  if (shown === one) show(next.done ? "" : next.value);
  else tabs();
}

function tabs() {
  const nav = $("players");
  nav.hidden = joined.size === 0;
  nav.replaceChildren(
    ...[...joined.keys()].map((name) => {
      const button = document.createElement("button");
      button.type = "button";
      button.role = "tab";
      button.ariaSelected = String(shown?.name === name);
      button.textContent = name;
      button.onclick = () => show(name);
      return button;
    }),
  );
}

function show(/** @type {string} */ name) {
  shown = joined.get(name) ?? null;
  tabs();
  $("main").hidden = shown === null;
  if (!shown) return;
  const { client, line, log } = shown;
  const { schema } = client.protocol;
  $("game").textContent = schema ? `The game is ${schema.name}: ${schema.tick_hz} ticks a second, a world of ${schema.width} by ${schema.height}.` : "";
  commandForms($("commands"), schema?.commands ?? [], (command, fields) => {
    try {
      client.send(command, fields);
      return "";
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  });
  lineForm(line);
  log.show($("log"), $("kinds"));
  draw();
}

/** @param {Line} line */
function lineForm(line) {
  const rows = /** @type {[keyof Line, string, number, number, (value: number) => string][]} */ ([
    ["latencyMs", "Latency, one way", 1, 1000, (ms) => `${ms} ms`],
    ["jitterMs", "Jitter, up to", 1, 500, (ms) => `${ms} ms`],
    ["loss", "Packets lost", 0.01, 0.5, (share) => `${Math.round(share * 100)} %`],
  ]);
  const box = document.createElement("div");
  box.className = "fields";
  for (const [key, text, step, most, told] of rows) {
    const label = document.createElement("label");
    const output = document.createElement("output");
    const input = document.createElement("input");
    Object.assign(input, { type: "range", id: `line-${key}`, min: "0", max: String(most), step: String(step), value: String(line[key]) });
    output.textContent = told(Number(line[key]));
    input.oninput = () => {
      /** @type {any} */ (line)[key] = Number(input.value);
      output.textContent = told(Number(input.value));
    };
    label.append(output, text, input);
    box.append(label);
  }
  $("network").replaceChildren(box);
}

function draw() {
  if (!shown) return;
  const { client, gapMs, pingMs, line, map } = shown;
  fillFigures($("figures"), client, gapMs, pingMs, line.isCut);
  if (client.world) drawMap($("map"), client.world, map);
  if (client.world && !$("freeze").checked) fillTables($("tables"), client.world, $("filter").value.trim().toLowerCase());
}

$("join").onsubmit = (/** @type {Event} */ event) => {
  event.preventDefault();
  join($("name").value.trim());
};
$("drop").onclick = () => shown?.client.dropSocket();
$("leave").onclick = () => {
  const one = shown;
  one?.client.leave().catch((error) => say(`${one.name}: ${error.message}`));
};
$("cut").onclick = () => {
  shown?.line.cut(Number($("cut-seconds").value));
  say(`The line is cut for ${$("cut-seconds").value} s.`);
};
$("chat").onsubmit = (/** @type {Event} */ event) => {
  event.preventDefault();
  shown?.client.chat($("chat-text").value, $("chat-to").value.trim());
  $("chat-text").value = "";
};

const settings = await fetch("/client.json").then((answer) => answer.json()).catch(() => ({}));
login = settings.login ?? "token";
if (login === "name") $("name").value = `player-${Math.floor(Math.random() * 9000) + 1000}`;
else $("name-label").textContent = "Login token";
setInterval(draw, DRAW_EVERY_MS);
