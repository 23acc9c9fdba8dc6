/**
 * Keyboard, mouse and touch, made into one intent: a direction in eighths and whether to fire. Sends nothing.
 *
 * Keyboard: arrows or WASD, space fires. Mouse: the ship flies to the pointer while the left button is held, the right one fires.
 * Touch: a stick appears where the left thumb lands; a button fires.
 *
 * @module
 */

/** @type {Record<string, [number, number]>} */
const KEYS = {
  ArrowUp: [0, -1], KeyW: [0, -1], ArrowDown: [0, 1], KeyS: [0, 1], ArrowLeft: [-1, 0], KeyA: [-1, 0], ArrowRight: [1, 0], KeyD: [1, 0],
};
const STICK_RADIUS = 46;
const DEAD_ZONE = 12;

/** @param {number} dx @param {number} dy @param {number} dead @returns {[number, number]} the nearest of eight directions, or none */
export function eighth(dx, dy, dead) {
  if (Math.hypot(dx, dy) < dead) return [0, 0];
  const turn = Math.round((Math.atan2(dy, dx) / Math.PI) * 4);
  return [Math.round(Math.cos((turn * Math.PI) / 4)), Math.round(Math.sin((turn * Math.PI) / 4))];
}

export class Input {
  /** @param {HTMLElement} surface the canvas @param {HTMLElement} stick @param {HTMLElement} fireButton */
  constructor(surface, stick, fireButton) {
    /** @type {Set<string>} */ this.held = new Set();
    this.surface = surface;
    this.stick = stick;
    this.knob = /** @type {HTMLElement} */ (stick.firstElementChild);
    /** @type {[number, number]} */ this.pointed = [0, 0];
    this.firing = { key: false, mouse: false, touch: false };
    this.enabled = false;
    /** @type {number | null} */ this.stickPointer = null;
    this.origin = { x: 0, y: 0 };
    addEventListener("keydown", (event) => this.key(event, true));
    addEventListener("keyup", (event) => this.key(event, false));
    addEventListener("blur", () => this.release());
    surface.addEventListener("contextmenu", (event) => event.preventDefault());
    surface.addEventListener("pointerdown", (event) => this.down(event));
    surface.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) surface.addEventListener(name, (event) => this.up(/** @type {PointerEvent} */ (event)));
    const press = (/** @type {boolean} */ on) => (/** @type {Event} */ event) => {
      event.preventDefault();
      this.firing.touch = on && this.enabled;
    };
    fireButton.addEventListener("pointerdown", press(true));
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) fireButton.addEventListener(name, press(false));
  }

  /** Everything is let go: the page lost the focus, or a menu is open. */
  release() {
    this.held.clear();
    this.pointed = [0, 0];
    this.firing = { key: false, mouse: false, touch: false };
    this.hideStick();
  }

  /** @returns {{mx: number, my: number, fire: boolean}} */
  intent() {
    if (!this.enabled) return { mx: 0, my: 0, fire: false };
    let [mx, my] = [0, 0];
    for (const code of this.held) {
      mx += KEYS[code][0];
      my += KEYS[code][1];
    }
    if (!mx && !my) [mx, my] = this.pointed;
    return { mx: Math.sign(mx), my: Math.sign(my), fire: this.firing.key || this.firing.mouse || this.firing.touch };
  }

  /** @private @param {KeyboardEvent} event @param {boolean} down */
  key(event, down) {
    const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement;
    if (down && (!this.enabled || typing || event.ctrlKey || event.metaKey || event.altKey)) return;
    if (event.code === "Space" && !(event.target instanceof HTMLButtonElement)) this.firing.key = down;
    else if (!(event.code in KEYS)) return;
    else if (down) this.held.add(event.code);
    else this.held.delete(event.code);
    if (this.enabled && !typing) event.preventDefault(); // the page does not scroll
  }

  /** @private @param {PointerEvent} event */
  down(event) {
    if (!this.enabled) return;
    this.surface.focus({ preventScroll: true });
    event.preventDefault();
    if (event.pointerType === "mouse") {
      if (event.button === 2) this.firing.mouse = true;
      else this.pointAt(event);
    } else if (this.stickPointer === null) {
      this.stickPointer = event.pointerId;
      this.origin = { x: event.clientX, y: event.clientY };
      this.stick.hidden = false;
      this.stick.style.left = `${event.clientX}px`;
      this.stick.style.top = `${event.clientY}px`;
      this.moveKnob(0, 0);
    }
    this.surface.setPointerCapture(event.pointerId);
  }

  /** @private @param {PointerEvent} event */
  move(event) {
    if (!this.enabled) return;
    if (event.pointerType === "mouse") {
      if (event.buttons & 1) this.pointAt(event);
    } else if (event.pointerId === this.stickPointer) {
      const [dx, dy] = [event.clientX - this.origin.x, event.clientY - this.origin.y];
      this.pointed = eighth(dx, dy, DEAD_ZONE);
      const far = Math.min(1, STICK_RADIUS / (Math.hypot(dx, dy) || 1));
      this.moveKnob(dx * far, dy * far);
    }
  }

  /** @private @param {PointerEvent} event */
  up(event) {
    if (event.pointerType === "mouse") {
      if (event.button === 2) this.firing.mouse = false;
      else this.pointed = [0, 0];
    } else if (event.pointerId === this.stickPointer) {
      this.pointed = [0, 0];
      this.hideStick();
    }
  }

  /** @private @param {PointerEvent} event */
  pointAt(event) {
    const box = this.surface.getBoundingClientRect(); // one's own ship is in the middle
    this.pointed = eighth(event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2, 2 * DEAD_ZONE);
  }

  /** @private @param {number} dx @param {number} dy */
  moveKnob(dx, dy) {
    this.knob.style.transform = `translate(${dx}px, ${dy}px)`;
  }

  /** @private */
  hideStick() {
    this.stickPointer = null;
    this.stick.hidden = true;
  }
}
