"""A game for the zone tests: small tables, commands that put a player anywhere, and rows that remember what happened to them."""

from perdure import Game, emit, f32, f64, flag, i8, i16, i32, i64, q, room, spawn, u8, u16, u32

game = Game("small", tick_hz=10, world=(100, 100), interest=60, hysteresis=1.0, grace_s=1.0)


@game.entity(capacity=3, avatar=True)
class Man:
    x: f64 = q(0, 100, step=1 / 16)
    y: f64 = q(0, 100, step=1 / 16)
    gold: i64 = q(0, 1000, to="owner")
    log: i64  # every number that was added, in order
    applied: i64
    joined: u8
    returned: u8
    resumed: u8
    a: i8
    b: i16
    c: i32
    d: u8
    e: u16
    f: u32
    g: f32
    h: f64
    i: flag


@game.entity(capacity=2)
class Pebble:
    x: f64 = q(0, 100, step=1 / 16)
    y: f64 = q(0, 100, step=1 / 16)
    vx: f64


@game.command
class Add:
    n: u8


@game.command
class Go:
    x: f64 = q(-1000, 1000)
    y: f64 = q(-1000, 1000)


@game.command
class Throw:
    vx: f64 = q(-1000, 1000)


@game.command
class Types:
    a: i8
    b: i16
    c: i32
    d: u8
    e: u16
    f: u32
    g: f32 = q(-1e9, 1e9)
    h: f64 = q(-1e300, 1e300)
    i: flag
    j: i64


@game.event(radius=30, capacity=2)
class Added:
    n: u8


@game.totals
class Totals:
    started: i64
    left: i64


@game.start
def start(w):
    w.totals.started += 1


@game.join
def join(w, man, returning):
    man.joined += 1
    man.returned += 1 if returning else 0


@game.resume
def resume(w, man):
    man.resumed += 1


@game.leave
def leave(w, man):
    w.totals.left += 1
    man.gold += 100


@game.tick
def tick(w):
    for i in range(len(w.man.rows)):
        man = w.man.rows[i]
        if w.add[i].given:
            man.log = man.log * 31 + w.add[i].n
            man.applied += 1
            told = emit(w, w.added, man.x, man.y)
            told.n = w.add[i].n
        if w.go[i].given:
            man.x = w.go[i].x
            man.y = w.go[i].y
        if w.throw[i].given and room(w.pebble) > 0:
            pebble = spawn(w, w.pebble)
            pebble.x = man.x
            pebble.y = man.y
            pebble.vx = w.throw[i].vx
        types = w.types[i]
        if types.given:
            man.a, man.b, man.c, man.d, man.e, man.f = types.a, types.b, types.c, types.d, types.e, types.f
            man.g, man.h, man.i, man.log = types.g, types.h, types.i, types.j
    for pebble in w.pebble.rows:
        pebble.x += pebble.vx * w.dt
