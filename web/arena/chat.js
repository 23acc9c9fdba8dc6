/**
 * The chat box: lines that fade while one plays, a field to type in, and to whom a line goes. All is shown as text, never as markup.
 *
 * Keys that are pressed in here stay in here: nothing of what is typed steers the ship.
 *
 * @module
 */

import { MAX_TEXT, meaning } from "./chat_line.js";
import { part } from "./hud.js";

const FADE_AFTER_MS = 15_000;
const MOST_LINES = 100;
const LONGEST_COMMAND = "/whisper  ".length + 32;

/** @typedef {"zone" | "from" | "to" | "server"} Kind a line of the zone, of a whisper that came or went, of the server or this page */

export class Chat {
  /** @param {{opened: () => void, closed: () => void}} on `opened`: let go of all keys; `closed`: the game has the keyboard again */
  constructor(on) {
    this.on = on;
    this.box = part("chat");
    this.lines = part("chat-lines");
    this.form = /** @type {HTMLFormElement} */ (part("chat-form"));
    this.field = /** @type {HTMLInputElement} */ (part("chat-text"));
    this.opener = part("open-chat");
    this.isOpen = false;
    /** Who whispered last. */ this.whisperer = "";
    this.me = "";
    /** @type {import("../perdure.js").Client | null} */ this.client = null;
    this.field.maxLength = MAX_TEXT + LONGEST_COMMAND;
    this.form.addEventListener("submit", (event) => this.submit(event));
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("keyup", (event) => event.stopPropagation());
    this.box.addEventListener("focusout", (event) => this.left(event));
    // A press would take the focus out of an open box first, and so close it: the click would open it again.
    this.opener.addEventListener("pointerdown", (event) => event.preventDefault());
    this.opener.addEventListener("click", () => (this.isOpen ? this.close() : this.open()));
  }

  /** Another stay in the world begins; what was said in the last one is another player's. @param {import("../perdure.js").Client} client */
  attach(client) {
    this.client = client;
    this.whisperer = "";
    this.field.value = "";
    this.lines.replaceChildren();
    client.on("welcome", ({ welcome }) => (this.me = welcome.player));
    client.on("chat", (line) => this.hear(line));
  }

  /** @param {string} [begun] what stands in the field already */
  open(begun) {
    if (begun !== undefined) this.field.value = begun;
    if (!this.isOpen) {
      this.isOpen = true;
      this.box.classList.add("open");
      this.form.hidden = false;
      this.opener.setAttribute("aria-expanded", "true");
      this.lines.scrollTop = this.lines.scrollHeight;
      this.on.opened();
    }
    this.field.focus({ preventScroll: true });
    this.field.setSelectionRange(this.field.value.length, this.field.value.length);
  }

  /** @param {boolean} [back] whether the game gets the focus; not where it went elsewhere by itself */
  close(back = true) {
    if (!this.isOpen) return;
    this.isOpen = false; // first: what is hidden loses the focus, and that is heard
    this.box.classList.remove("open");
    this.form.hidden = true;
    this.opener.setAttribute("aria-expanded", "false");
    this.lines.scrollTop = this.lines.scrollHeight;
    if (back) this.on.closed();
  }

  /** @private @param {KeyboardEvent} event */
  key(event) {
    event.stopPropagation();
    if (event.isComposing) return; // Escape and Enter are the input method's
    if (event.key === "Escape") {
      event.preventDefault();
      this.field.value = "";
      this.close();
    } else if (event.target === this.box && !event.ctrlKey && !event.metaKey && !event.altKey && (event.key.length === 1 || event.key === "Enter")) {
      this.field.focus(); // a click among the lines had it; what is typed goes into the field
    }
  }

  /** The focus goes out of the box: so does the player. @private @param {FocusEvent} event */
  left(event) {
    const to = event.relatedTarget;
    if (to instanceof Node && this.box.contains(to)) return;
    if (document.hasFocus()) this.close(false); // else it is the whole window that lost it, and the field has it again later
  }

  /** @private @param {SubmitEvent} event */
  submit(event) {
    event.preventDefault();
    const meant = meaning(this.field.value, this.whisperer);
    if (meant && "fault" in meant) this.show("server", "", meant.fault);
    else if (meant && !this.client?.connected) this.show("server", "", "There is no connection now: that was not sent.");
    else {
      if (meant) this.client?.chat(meant.text, meant.to);
      this.field.value = "";
      this.close();
    }
  }

  /** @private @param {{from: string, to: string, text: string}} line */
  hear({ from, to, text }) {
    if (!from) this.show("server", "", text);
    else if (!to) this.show("zone", from, text);
    else if (from === this.me && to !== this.me) this.show("to", to, text);
    else {
      this.whisperer = from;
      this.show("from", from, text);
    }
  }

  /** @private @param {Kind} kind @param {string} name @param {string} text */
  show(kind, name, text) {
    const row = document.createElement("li");
    row.className = kind;
    if (name === this.me && kind === "zone") row.classList.add("own");
    if (name) row.append(...this.speaker(kind, name));
    const said = document.createElement("span");
    said.textContent = text;
    row.append(said);
    const isAtEnd = this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < 40;
    this.lines.append(row);
    while (this.lines.childElementCount > MOST_LINES) this.lines.firstElementChild?.remove();
    if (isAtEnd || !this.isOpen) this.lines.scrollTop = this.lines.scrollHeight;
    setTimeout(() => row.classList.add("old"), FADE_AFTER_MS);
  }

  /** A name, which begins a whisper when it is clicked; by keyboard there is /w. @private @param {Kind} kind @param {string} name */
  speaker(kind, name) {
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = -1;
    button.textContent = name;
    button.title = `whisper to ${name}`;
    button.addEventListener("click", () => this.open(`/w ${name} `));
    if (kind === "zone") return [button, ": "];
    return kind === "to" ? ["to ", button, ": "] : [button, " whispers: "];
  }
}
