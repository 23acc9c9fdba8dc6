"""A field of duellists on both sides of a border: they shoot at whoever stands across it, and race for the coins that lie along it.

Everything that happens is counted, so that a shot that hits twice, or a coin that is taken twice, shows in the sums.
"""

from perdure import Game, despawn, f64, i64, q, rand, reach, reply, room, spawn, u8, u32

game = Game("duel", tick_hz=20, world=(1024, 1024), interest=200)

RANGE = 60.0
RELOAD_TICKS = 3
COINS = 24
SEEN_TICKS = 5  # for so long a coin is left to those across the border


@game.entity(capacity=128, avatar=True)
class Duellist:
    x: f64 = q(0, 1024, step=1 / 16)
    y: f64 = q(0, 1024, step=1 / 16)
    shots: u32 = q(0, 4_000_000, to="owner")
    wounds: i64
    gold: i64
    reload: u8


@game.entity(capacity=64)
class Coin:
    x: f64 = q(0, 1024, step=1 / 16)
    y: f64 = q(0, 1024, step=1 / 16)
    value: i64
    age: i64


@game.command
class Stand:
    x: f64 = q(0, 1023)
    y: f64 = q(0, 1023)


@game.effect(source=Duellist, target=Duellist, capacity=64)
class Shot:
    damage: u8


@game.effect(source=Duellist, target=Coin, capacity=64)
class Pick:
    pass


@game.effect(source=Coin, target=Duellist, capacity=0)
class Gain:
    value: i64


@game.totals
class Totals:
    sent: i64  # damage
    dealt: i64
    missed: i64
    shots: i64
    minted: i64  # gold
    made: i64  # coins
    picked: i64
    granted: i64
    gained: i64
    returned: i64


@game.function
def near(a, b, distance):
    return (a.x - b.x) ** 2 + (a.y - b.y) ** 2 < distance * distance


@game.across
def across(w):
    for me in w.duellist.rows:
        for other in w.duellist.ghosts:
            if me.reload == 0 and near(me, other, RANGE):
                shot = reach(w, w.shot, me, other)
                shot.damage = 1 + (w.tick + me.id) % 20
                break
        for coin in w.coin.ghosts:
            if near(me, coin, RANGE):
                reach(w, w.pick, me, coin)
                break


@game.sends(Shot)
def shot_sent(w, me, shot):
    if me.reload > 0:
        return False
    me.reload = RELOAD_TICKS
    me.shots += 1
    w.totals.shots += 1
    w.totals.sent += shot.damage
    return True


@game.takes(Shot)
def shot_taken(w, me, shot):
    me.wounds += shot.damage
    w.totals.dealt += shot.damage


@game.returned(Shot)
def shot_back(w, me, shot):
    w.totals.missed += shot.damage


@game.takes(Pick)
def pick_taken(w, coin, pick):
    gain = reply(w, w.gain, pick)
    gain.value = coin.value
    w.totals.granted += 1
    despawn(coin)


@game.takes(Gain)
def gain_taken(w, me, gain):
    me.gold += gain.value
    w.totals.gained += 1


@game.returned(Gain)
def gain_back(w, coin, gain):
    w.totals.minted -= gain.value
    w.totals.returned += 1


@game.tick
def tick(w):
    for i in range(len(w.duellist.rows)):
        me = w.duellist.rows[i]
        if w.stand[i].given:
            me.x = w.stand[i].x
            me.y = w.stand[i].y
        if me.reload > 0:
            me.reload -= 1
    for coin in w.coin.rows:
        coin.age += 1
        for me in w.duellist.rows:
            if coin.age > SEEN_TICKS and coin.dead == 0 and near(me, coin, RANGE):
                me.gold += coin.value
                w.totals.picked += 1
                despawn(coin)
    if len(w.coin.rows) < COINS and room(w.coin) > 0:
        coin = spawn(w, w.coin)
        coin.x = 505.0 if w.zone == 0 else 519.0
        coin.y = 40.0 + rand(w, coin.id, 1) * 900.0
        coin.value = 1 + w.tick % 7
        w.totals.made += 1
        w.totals.minted += coin.value
