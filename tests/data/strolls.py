"""A game for tests of the load test: one walks, fast enough to be anywhere in the world within seconds."""

from perdure import Game, f64, i8, q

game = Game("strolls", tick_hz=20, world=(300, 200), interest=40, hysteresis=1.0, grace_s=3.0)


@game.entity(capacity=256, avatar=True)
class Walker:
    x: f64 = q(0, 300, step=1 / 16)
    y: f64 = q(0, 200, step=1 / 16)
    mx: i8
    my: i8


@game.command
class Walk:
    mx: i8 = q(-1, 1)
    my: i8 = q(-1, 1)


@game.join
def join(w, me, returning):
    if not returning:
        me.x = (w.x0 + w.x1) / 2
        me.y = (w.y0 + w.y1) / 2


@game.tick
def tick(w):
    for i in range(len(w.walker.rows)):
        me = w.walker.rows[i]
        walk = w.walk[i]
        if walk.given:
            me.mx = walk.mx
            me.my = walk.my
        me.x = min(max(me.x + 2 * me.mx, 0.0), 300.0)
        me.y = min(max(me.y + 2 * me.my, 0.0), 200.0)
