"""The simulation's game: traders who walk, drop what they carry and pick up what lies about. Gold and relics are conserved.

A relic is one of a kind, by its serial. Gold is minted when a trader first joins and when a zone opens, and counted. Over borders, by
effects, traders pick up purses without relics, and throw stones at each other; what was thrown is counted, and what hit or missed.
"""

from perdure import Game, despawn, emit, f64, i8, i64, q, rand, reach, reply, room, spawn, u8, u16, u32

game = Game("bazaar", tick_hz=10, world=(120, 120), interest=60, hysteresis=2.0, grace_s=30.0)

SPEED = 25.0
REACH = 4.0
THROW = 20.0
RELICS = 2
POISON = 65_535  # rules that fail on a command


@game.entity(capacity=48, avatar=True)
class Trader:
    x: f64 = q(0, 120, step=1 / 16)
    y: f64 = q(0, 120, step=1 / 16)
    gold: i64 = q(0, 1_000_000, to="owner")
    relic: i64 = q(0, 1_000_000, to="owner")
    tag: u16 = q(0, 65535, to="owner")
    dx: i8
    dy: i8
    wait: i64
    reload: i64
    bruises: i64


@game.entity(capacity=64)
class Purse:
    x: f64 = q(0, 120, step=1 / 16)
    y: f64 = q(0, 120, step=1 / 16)
    gold: i64 = q(0, 1_000_000)
    relic: i64 = q(0, 1_000_000)


@game.command
class Walk:
    dx: i8 = q(-1, 1)
    dy: i8 = q(-1, 1)
    tag: u16


@game.command
class Drop:
    tag: u16


@game.event(radius=40)
class Dropped:
    who: u32


@game.effect(source=Trader, target=Purse, capacity=16)
class Pick:
    pass


@game.effect(source=Purse, target=Trader, capacity=0)
class Gain:
    gold: i64


@game.effect(source=Trader, target=Trader, capacity=16)
class Stone:
    weight: u8


@game.totals
class Totals:
    minted: i64
    thrown: i64
    hit: i64
    missed: i64
    relics: i64
    first_relic: i64


@game.join
def join(w, trader, returning):
    if not returning:
        trader.gold = 100
        w.totals.minted += 100
        trader.x = w.x0 + rand(w, trader.id, 1) * (w.x1 - w.x0)
        trader.y = w.y0 + rand(w, trader.id, 2) * (w.y1 - w.y0)


@game.function
def open_zone(w):
    w.totals.first_relic = (w.zone + 1) * 1000
    for k in range(RELICS):
        purse = spawn(w, w.purse)
        purse.x = w.x0 + (w.x1 - w.x0) * (k + 1) / (RELICS + 1)
        purse.y = (w.y0 + w.y1) * 0.5
        purse.gold = 10
        purse.relic = w.totals.first_relic + k
        w.totals.minted += 10
        w.totals.relics += 1


@game.function
def drop(w, trader: Trader):
    if room(w.purse) == 0 or (trader.gold == 0 and trader.relic == 0):
        return
    purse = spawn(w, w.purse)
    purse.x = trader.x
    purse.y = trader.y
    purse.gold = trader.gold
    purse.relic = trader.relic
    trader.gold = 0
    trader.relic = 0
    trader.wait = 15
    told = emit(w, w.dropped, trader.x, trader.y)
    told.who = trader.id & 0xFFFFFFFF


@game.across
def across(w):
    for trader in w.trader.rows:
        for purse in w.purse.ghosts:
            if trader.wait == 0 and purse.relic == 0 and abs(trader.x - purse.x) < REACH and abs(trader.y - purse.y) < REACH:
                reach(w, w.pick, trader, purse)
        for other in w.trader.ghosts:
            if trader.reload == 0 and abs(trader.x - other.x) < THROW and abs(trader.y - other.y) < THROW:
                stone = reach(w, w.stone, trader, other)
                stone.weight = 1 + w.tick % 9


@game.sends(Stone)
def stone_thrown(w, trader, stone):
    if trader.reload > 0:
        return False
    trader.reload = 5
    w.totals.thrown += stone.weight
    return True


@game.takes(Stone)
def stone_hits(w, trader, stone):
    trader.bruises += stone.weight
    w.totals.hit += stone.weight


@game.returned(Stone)
def stone_missed(w, trader, stone):
    w.totals.missed += stone.weight


@game.takes(Pick)
def purse_picked(w, purse, pick):
    if purse.relic == 0:
        gain = reply(w, w.gain, pick)
        gain.gold = purse.gold
        despawn(purse)


@game.takes(Gain)
def gained(w, trader, gain):
    trader.gold += gain.gold


@game.returned(Gain)
def gold_back(w, purse, gain):
    w.totals.minted -= gain.gold


@game.tick
def tick(w):
    if w.totals.relics == 0:
        open_zone(w)
    for i in range(len(w.trader.rows)):
        trader = w.trader.rows[i]
        if trader.wait > 0:
            trader.wait -= 1
        if trader.reload > 0:
            trader.reload -= 1
        if w.walk[i].tag == POISON:
            raise ValueError("poison")
        if w.walk[i].given:
            trader.dx = w.walk[i].dx
            trader.dy = w.walk[i].dy
            trader.tag = w.walk[i].tag
        if w.drop[i].given:
            trader.tag = w.drop[i].tag
            drop(w, trader)
        trader.x = min(max(trader.x + trader.dx * SPEED * w.dt, 0.0), w.width - 0.0625)
        trader.y = min(max(trader.y + trader.dy * SPEED * w.dt, 0.0), w.height - 0.0625)
    for purse in w.purse.rows:
        for trader in w.trader.rows:
            near = abs(trader.x - purse.x) < REACH and abs(trader.y - purse.y) < REACH
            if purse.dead == 0 and trader.wait == 0 and near and (purse.relic == 0 or trader.relic == 0):
                trader.gold += purse.gold
                if purse.relic != 0:
                    trader.relic = purse.relic
                purse.gold = 0
                purse.relic = 0
                despawn(purse)
