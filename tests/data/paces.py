"""A game for tests of whole clusters: every command counts, so that one that is lost or applied twice shows in the next snapshot."""

from perdure import Game, f64, q, u16, u32

game = Game("paces", tick_hz=20, world=(300, 200), interest=40, hysteresis=1.0, grace_s=3.0)


@game.entity(capacity=256, avatar=True)
class Walker:
    x: f64 = q(0, 300, step=1 / 16)
    y: f64 = q(0, 200, step=1 / 16)
    steps: u32 = q(0, 1_000_000, to="owner")  # commands that were applied, ever
    joins: u16 = q(0, 10_000, to="owner")  # how often it came out of the lobby


@game.command
class Go:
    x: f64 = q(0, 300)
    y: f64 = q(0, 200)


@game.join
def join(w, me, returning):
    me.joins += 1
    if not returning:
        me.x = (w.x0 + w.x1) / 2
        me.y = (w.y0 + w.y1) / 2


@game.tick
def tick(w):
    for i in range(len(w.walker.rows)):
        me = w.walker.rows[i]
        go = w.go[i]
        if go.given:
            me.x = go.x
            me.y = go.y
            me.steps += 1
