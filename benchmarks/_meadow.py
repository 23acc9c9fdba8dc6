"""A meadow for crowds who steer: each commands where it walks, and within how large a square, so that one game serves any crowd.

With 1,000 players in a square of 1,000 each sees 31 others within the radius of 100. Opposite headings are opposite ways, so that who
goes through all of them is where it was, and a crowd stays as it is.
"""

from perdure import Game, f64, q, rand, u8, u16

game = Game("meadow", tick_hz=20, world=(2048, 2048), interest=100)


@game.entity(capacity=8192, avatar=True)
class Walker:
    x: f64 = q(0, 2047, step=1 / 16, interpolate=True)
    y: f64 = q(0, 2047, step=1 / 16, interpolate=True)
    heading: u8


@game.command
class Walk:
    heading: u8 = q(0, 7)
    reach: u16 = q(1, 2047)


@game.join
def join(w, me, returning):
    if not returning:
        me.x = w.x0 + rand(w, me.id, 1) * (w.x1 - w.x0)
        me.y = w.y0 + rand(w, me.id, 2) * (w.y1 - w.y0)


@game.tick
def tick(w):
    for i in range(len(w.walker.rows)):
        me = w.walker.rows[i]
        if w.walk[i].given:
            reach = float(w.walk[i].reach)
            if me.x > reach or me.y > reach:  # it came in outside: somewhere within
                me.x = rand(w, me.id, 3) * reach
                me.y = rand(w, me.id, 4) * reach
            me.heading = w.walk[i].heading
            # At the edge it turns round: nobody piles up there.
            if me.x < 5.0:
                me.heading = 0
            elif me.x > reach - 5.0:
                me.heading = 4
            elif me.y < 5.0:
                me.heading = 2
            elif me.y > reach - 5.0:
                me.heading = 6
        along = 30.0 * w.dt
        side = 1.0 if me.heading < 4 else -1.0
        dx = along if me.heading == 0 or me.heading == 1 or me.heading == 7 else (-along if 3 <= me.heading <= 5 else 0.1 * side)
        dy = along if 1 <= me.heading <= 3 else (-along if me.heading >= 5 else 0.1 * side)
        me.x = min(max(me.x + dx, w.x0), w.x1 - 1.0)
        me.y = min(max(me.y + dy, w.y0), w.y1 - 1.0)
