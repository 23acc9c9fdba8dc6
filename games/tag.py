"""Tag: whoever is "it" passes it on by touching another runner. The whole game, on the public contract."""

from perdure import Game, emit, f64, flag, i8, q, rand, u8, u16, u32

game = Game("tag", tick_hz=20, world=(1024, 1024), interest=200)


@game.entity(capacity=512, avatar=True)
class Runner:
    x: f64 = q(0, 1024, step=1 / 16, interpolate=True)
    y: f64 = q(0, 1024, step=1 / 16, interpolate=True)
    it: flag = q(0, 1)
    tags: u16 = q(0, 9999)
    safe: u8  # ticks in which this runner cannot be tagged


@game.command
class Run:
    mx: i8 = q(-1, 1)
    my: i8 = q(-1, 1)


@game.event(radius=300)
class Tagged:
    who: u32
    by: u32


@game.join
def join(w, me, returning):
    if not returning:
        me.x = w.x0 + rand(w, me.id, 1) * (w.x1 - w.x0)
        me.y = w.y0 + rand(w, me.id, 2) * (w.y1 - w.y0)
    me.it = 1 if len(w.runner.rows) % 8 == 0 else 0


@game.tick
def tick(w):
    for i in range(len(w.runner.rows)):
        me = w.runner.rows[i]
        go = w.run[i]
        speed = 90.0 if me.it else 80.0
        me.x = min(max(me.x + go.mx * speed * w.dt, 0.0), w.width - 0.01)
        me.y = min(max(me.y + go.my * speed * w.dt, 0.0), w.height - 0.01)
        me.safe = max(me.safe - 1, 0)
    for i in range(len(w.runner.rows)):
        me = w.runner.rows[i]
        for other in w.runner.rows:
            near = (me.x - other.x) ** 2 + (me.y - other.y) ** 2 < 100.0
            if me.it and near and not other.it and not other.safe and me.id != other.id:
                me.it, other.it, me.safe, other.tags = 0, 1, 20, other.tags + 1
                hit = emit(w, w.tagged, other.x, other.y)
                hit.who, hit.by = other.id & 0xFFFFFFFF, me.id & 0xFFFFFFFF
