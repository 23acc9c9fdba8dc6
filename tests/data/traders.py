"""A game of effects for tests: archers who shoot over borders, and pick up purses that lie there. Hits and gold are conserved."""

from perdure import Game, despawn, f64, i64, q, reach, reply, room, spawn, u8, u16

game = Game("traders", tick_hz=20, world=(100, 100), interest=40, hysteresis=2.0)


@game.entity(capacity=16, avatar=True)
class Archer:
    x: f64 = q(0, 100, step=1 / 16)
    y: f64 = q(0, 100, step=1 / 16)
    gold: i64 = q(0, 1_000_000, to="owner")
    hurt: i64


@game.entity(capacity=32)
class Arrow:
    x: f64 = q(0, 100, step=1 / 16)
    y: f64 = q(0, 100, step=1 / 16)
    by: i64


@game.entity(capacity=8)
class Purse:
    x: f64 = q(0, 100, step=1 / 16)
    y: f64 = q(0, 100, step=1 / 16)
    gold: i64 = q(0, 1_000_000)


@game.command
class Go:
    x: f64 = q(-100, 200, step=1 / 16)
    y: f64 = q(-100, 200, step=1 / 16)


@game.command
class Loose:
    at: u8


@game.command
class Drop:
    gold: u16


@game.effect(source=Arrow, target=Archer, capacity=8)
class Hurt:
    damage: u8
    by: i64


@game.effect(source=Archer, target=Purse, capacity=8)
class Pick:
    pass


@game.effect(source=Purse, target=Archer)
class Gain:
    gold: i64


@game.totals
class Totals:
    minted: i64
    sent: i64
    taken: i64
    missed: i64
    refused: i64


@game.join
def join(w, me, returning):
    if not returning:
        me.gold = 100
        w.totals.minted += 100


@game.function
def near(a, b):
    return abs(a.x - b.x) < 12.0 and abs(a.y - b.y) < 12.0


@game.across
def across(w):
    for arrow in w.arrow.rows:
        for archer in w.archer.ghosts:
            if archer.id != arrow.by and near(arrow, archer):
                hurt = reach(w, w.hurt, arrow, archer)
                hurt.damage = 7
                hurt.by = arrow.by
    for me in w.archer.rows:
        for purse in w.purse.ghosts:
            if near(me, purse):
                reach(w, w.pick, me, purse)


@game.sends(Hurt)
def hurt_sent(w, arrow: Arrow, hurt: Hurt):
    w.totals.sent += hurt.damage
    despawn(arrow)
    return True


@game.takes(Hurt)
def hurt_taken(w, me, hurt):
    me.hurt += hurt.damage
    w.totals.taken += hurt.damage


@game.returned(Hurt)
def hurt_back(w, arrow, hurt):
    w.totals.missed += hurt.damage
    if arrow is None:
        w.totals.refused += 1


@game.takes(Pick)
def picked(w, purse, pick):
    gain = reply(w, w.gain, pick)
    gain.gold = purse.gold
    despawn(purse)


@game.takes(Gain)
def gained(w, me, gain):
    me.gold += gain.gold


@game.returned(Gain)
def gold_back(w, purse, gain):
    w.totals.minted -= gain.gold


@game.tick
def tick(w):
    for i in range(len(w.archer.rows)):
        me = w.archer.rows[i]
        if w.go[i].given:
            me.x = w.go[i].x
            me.y = w.go[i].y
        if w.loose[i].given and room(w.arrow) > 0:
            arrow = spawn(w, w.arrow)
            arrow.x = me.x
            arrow.y = me.y
            arrow.by = me.id
        if w.drop[i].given and room(w.purse) > 0:
            purse = spawn(w, w.purse)
            purse.x = me.x
            purse.y = me.y
            purse.gold = min(0 + w.drop[i].gold, me.gold)
            me.gold -= purse.gold
