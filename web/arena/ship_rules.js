/**
 * How a ship moves in one tick: `fly` of games/arena, word for word, so that the page can run its own commands before the server does.
 *
 * A test compares the two. Whoever changes one changes both.
 *
 * @module
 */

export const SHIP_SPEED = 200;
export const SHIP_RADIUS = 12;
const DIAGONAL = 0.7071067811865476;
const EDGE = 0.0625;

/**
 * @param {{x: number, y: number}} ship is moved
 * @param {number} mx -1, 0, 1 @param {number} my -1, 0, 1 @param {number} dtS a tick's seconds
 * @param {{width: number, height: number}} world
 */
export function fly(ship, mx, my, dtS, world) {
  const scale = mx !== 0 && my !== 0 ? DIAGONAL : 1;
  ship.x = Math.min(Math.max(ship.x + mx * scale * SHIP_SPEED * dtS, 0), world.width - EDGE);
  ship.y = Math.min(Math.max(ship.y + my * scale * SHIP_SPEED * dtS, 0), world.height - EDGE);
}

/** Eighths of a turn for a direction, the old heading when standing still. @param {number} mx @param {number} my @param {number} before */
export function headingOf(mx, my, before) {
  if (mx === 0 && my === 0) return before;
  return ((Math.atan2(my, mx) / Math.PI) * 4 + 8) % 8;
}
