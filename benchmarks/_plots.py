"""Plots: players who stay around the middles of some zones, far from every border, so that other zones have nobody in or near them.

`BUSY` is how many zones have players, `SPREAD` the side of the square in which they come in; benches write a copy of this file with other
numbers. All that is walked is in proportion to `SPREAD`, so that a smaller square with fewer players looks the same to each of them. A
zone's rules can be made dear: `Burn` says how many rounds of a loop its ticks take from then on.
"""

from perdure import Game, f64, q, rand, u8, u16, u32

BUSY = 16
SPREAD = 80.0

game = Game("plots", tick_hz=20, world=(4096, 4096), interest=20, idle_hz=1.0)


@game.entity(capacity=2048, avatar=True)
class Walker:
    x: f64 = q(0, 4096, step=1 / 16)
    y: f64 = q(0, 4096, step=1 / 16)
    home: u16


@game.command
class Walk:
    heading: u8 = q(0, 7)


@game.command
class Burn:
    rounds: u32 = q(0, 4_000_000_000)


@game.totals
class Heat:
    rounds: u32
    heat: f64


@game.join
def join(w, me, returning):
    if not returning:
        me.home = w.zone % BUSY
    columns = int(w.width / (w.x1 - w.x0) + 0.5)
    rows = int(w.height / (w.y1 - w.y0) + 0.5)
    zone = int(me.home) * (columns * rows // BUSY)
    me.x = ((zone % columns) + 0.5) * (w.x1 - w.x0) + (rand(w, me.id, 1) - 0.5) * SPREAD
    me.y = ((zone // columns) + 0.5) * (w.y1 - w.y0) + (rand(w, me.id, 2) - 0.5) * SPREAD


@game.tick
def tick(w):
    middle_x = (w.x0 + w.x1) / 2.0
    middle_y = (w.y0 + w.y1) / 2.0
    limit = 0.75 * SPREAD
    step = SPREAD / 80.0
    for i in range(len(w.walker.rows)):
        me = w.walker.rows[i]
        if w.burn[i].given:
            w.totals.rounds = w.burn[i].rounds
        if w.walk[i].given and abs(me.x - middle_x) < limit and abs(me.y - middle_y) < limit:
            heading = int(w.walk[i].heading)
            if heading == 0 or heading == 1 or heading == 7:
                me.x += step
            elif 3 <= heading <= 5:
                me.x -= step
            if 1 <= heading <= 3:
                me.y += step
            elif heading >= 5:
                me.y -= step
    heat = 0.5
    for _ in range(w.totals.rounds):
        heat = heat * 0.999 + 0.25
    w.totals.heat = heat
