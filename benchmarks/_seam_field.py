"""A field for those who stand side by side: each says where it walks up and down, and counts its steps, so that every tick's state of
it can be told from any other's.
"""

from perdure import Game, f64, q, u16

game = Game("seam", tick_hz=20, world=(1024, 1024), interest=200)


@game.entity(capacity=512, avatar=True)
class Walker:
    x: f64 = q(0, 1024, step=1 / 16, interpolate=True)
    y: f64 = q(0, 1024, step=1 / 16, interpolate=True)
    steps: u16 = q(0, 65535)
    home: f64
    down: u16


@game.command
class Stand:
    x: f64 = q(0, 1023)
    y: f64 = q(0, 1023)


@game.tick
def tick(w):
    for i in range(len(w.walker.rows)):
        me = w.walker.rows[i]
        if w.stand[i].given:
            me.x = w.stand[i].x
            me.y = w.stand[i].y
            me.home = w.stand[i].y
        if me.y > me.home + 20.0:
            me.down = 1
        elif me.y < me.home - 20.0:
            me.down = 0
        me.y = min(max(me.y + (-2.0 if me.down else 2.0), 0.0), 1023.0)
        me.steps = (me.steps + 1) & 0xFFFF
