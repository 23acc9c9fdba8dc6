/**
 * What stands around the picture: figures, notices, and the line that says why nothing moves. Text only, never markup.
 *
 * @module
 */

const TOAST_MS = 6000;
const MOST_TOASTS = 4;

/** @param {string} id @returns {HTMLElement} */
export function part(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

export class Hud {
  constructor() {
    this.status = part("status");
    this.toasts = part("toasts");
    /** What was told last, oldest first. @type {string[]} */ this.told = [];
    /** @type {Map<string, string>} */ this.written = new Map();
  }

  /** @param {string} id @param {string} text */
  set(id, text) {
    if (this.written.get(id) === text) return;
    this.written.set(id, text);
    part(id).textContent = text;
  }

  /** @param {Record<string, number>} fields @param {boolean} arena */
  own(fields, arena) {
    part("vitals").hidden = !arena;
    if (!arena) return;
    const hp = Math.max(fields.hp ?? 0, 0);
    const bar = /** @type {HTMLMeterElement} */ (part("hp-bar"));
    if (bar.value !== hp) bar.value = hp;
    this.set("hp", String(hp));
    this.set("gold", String(fields.gold ?? 0));
    this.set("ammo", String(fields.ammo ?? 0));
  }

  /** The line at the top that stays while something lasts; "" for none. @param {string} text */
  say(text) {
    if (this.status.textContent === text) return;
    this.status.textContent = text;
    this.status.hidden = !text;
  }

  /** A notice that goes by itself. @param {string} title @param {string} text @param {"good" | "warn" | "bad"} mood */
  toast(title, text, mood) {
    this.told = [...this.told, `${title}: ${text}`].slice(-20);
    const toast = document.createElement("div");
    toast.className = `toast ${mood}`;
    const heading = document.createElement("strong");
    heading.textContent = title;
    const body = document.createElement("span");
    body.textContent = text;
    toast.append(heading, body);
    this.toasts.append(toast);
    while (this.toasts.childElementCount > MOST_TOASTS) this.toasts.firstElementChild?.remove();
    setTimeout(() => toast.remove(), TOAST_MS);
  }
}
