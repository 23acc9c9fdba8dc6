"""A field on which everybody moves by themselves, all the time: for benches of what is sent, where no command shall cost anything.

With 500 players each sees some 32: a snapshot of about 250 bytes. Benches may write a copy of this file with another `INTEREST`.
"""

from perdure import Game, f64, q, rand, u8

INTEREST = 160

game = Game("field", tick_hz=20, world=(1024, 1024), interest=INTEREST)


@game.entity(capacity=2048, avatar=True)
class Walker:
    x: f64 = q(0, 1023, step=1 / 16, interpolate=True)
    y: f64 = q(0, 1023, step=1 / 16, interpolate=True)
    heading: u8


@game.command
class Turn:
    heading: u8 = q(0, 3)


@game.join
def join(w, me, returning):
    if not returning:
        me.x = w.x0 + rand(w, me.id, 1) * (w.x1 - w.x0)
        me.y = w.y0 + rand(w, me.id, 2) * (w.y1 - w.y0)


@game.tick
def tick(w):
    for i in range(len(w.walker.rows)):
        me = w.walker.rows[i]
        if w.turn[i].given:
            me.heading = w.turn[i].heading
        elif rand(w, me.id, 3) < 0.05:
            me.heading = int(rand(w, me.id, 4) * 4.0)
        along = 60.0 * w.dt if me.heading < 2 else -60.0 * w.dt
        me.x = min(max(me.x + (along if me.heading % 2 else 0.5), w.x0), w.x1 - 1.0)
        me.y = min(max(me.y + (0.5 if me.heading % 2 else along), w.y0), w.y1 - 1.0)
