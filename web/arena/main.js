/**
 * The page: the menu, logging in, and the way in and out of the game. For tests and the console, `globalThis.perdure` has the client.
 *
 * @module
 */

import { Client } from "../perdure.js";
import { Chat } from "./chat.js";
import { Game } from "./game.js";
import { part } from "./hud.js";
import { Input } from "./input.js";
import { Login } from "./login.js";

const canvas = /** @type {HTMLCanvasElement} */ (part("game"));
const menu = /** @type {HTMLDialogElement} */ (part("menu"));
const nameField = /** @type {HTMLInputElement} */ (part("name"));
const login = new Login();
const input = new Input(canvas, part("stick"), part("fire"));
const chat = new Chat({ opened: () => game?.halt(), closed: () => canvas.focus({ preventScroll: true }) });
/** @type {Client | null} */ let client = null;
/** @type {Game | null} */ let game = null;

/** @param {string} text @param {boolean} [bad] */
function tell(text, bad = false) {
  const line = part("menu-line");
  line.textContent = text;
  line.classList.toggle("bad", bad);
}

function openMenu() {
  chat.close(false);
  input.enabled = false;
  game?.halt();
  part("leave").hidden = part("back").hidden = !game;
  part("enter").hidden = game !== null;
  if (!menu.open) menu.showModal();
  (game ? part("back") : nameField).focus();
}

function closeMenu() {
  menu.close();
  input.enabled = game !== null;
  canvas.focus({ preventScroll: true });
}

/** A browser may close a dialog at Escape whatever the page says. Where the page did it, this comes later: the chat may be open by then. */
function menuClosed() {
  if (menu.open || (game && input.enabled)) return;
  if (game) closeMenu();
  else openMenu();
}

/** @param {string} name @param {string} resume */
async function enter(name, resume) {
  tell("Connecting…");
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const made = new Client(`${scheme}://${location.host}/ws`, { resume, token: () => login.token(name) });
  client = made;
  Object.assign(globalThis, { perdure: { client: made, get game() { return game; } } });
  made.on("welcome", ({ welcome }) => login.keep(welcome.resume));
  made.on("queued", ({ position, estimateS }) => tell(`The world is full: you are number ${position} in the queue, about ${estimateS} s to go.`));
  chat.attach(made);
  made.on("end", (why) => ended(why.code, why.reason));
  try {
    await made.connect();
  } catch {
    return; // "end" has told why
  }
  game = new Game(made, input, canvas);
  document.body.classList.add("playing");
  game.renderer.resize();
  game.start();
  tell("");
  closeMenu();
}

/** The stay is over for good. @param {number} code @param {string} reason */
function ended(code, reason) {
  game?.stop();
  game = null;
  client = null;
  document.body.classList.remove("playing");
  login.keep("");
  const left = code === 4012;
  tell(left ? "You left the world; it keeps what you had." : `The connection has ended: ${reason}`, !left);
  openMenu();
}

part("login").addEventListener("submit", (event) => {
  event.preventDefault();
  if (client) closeMenu();
  else enter(nameField.value.trim(), "");
});
part("back").addEventListener("click", closeMenu);
part("leave").addEventListener("click", () => {
  tell("Leaving…");
  client?.leave().catch(() => {}); // "end" tells
});
part("open-menu").addEventListener("click", openMenu);
menu.addEventListener("cancel", (event) => {
  event.preventDefault();
  if (game) closeMenu();
});
menu.addEventListener("close", menuClosed);
addEventListener("keydown", (event) => {
  if (!game || menu.open || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const opensChat = (event.key === "Enter" && !(event.target instanceof HTMLButtonElement)) || event.key === "/";
  if (event.code !== "Escape" && !opensChat) return;
  event.preventDefault(); // an Enter would submit the form that it opens
  if (opensChat) chat.open(event.key === "/" ? "/" : undefined);
  else openMenu();
});

nameField.value = login.name;
openMenu();
await login.prepare();
part("name-row").hidden = !login.byName;
if (login.resume) enter(login.name, login.resume);
else if (login.given) enter("", "");
else if (!login.byName) tell("Log in where your game's login is: it sends you here with a token.");
