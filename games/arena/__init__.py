"""Arena: ships that steer, shoot, die and respawn; coins to pick up, dropped at death; drones that hunt.

Bullets hit, and coins are picked up, across the borders of zones too: `across` proposes, and the hooks of the effects do it.

Gold is conserved by rule: it is minted into coins at a stated rate and counted; from then on it only moves between
coins and ships. The sum over the world of ship gold, coin value, saved gold and what is on its way equals what `totals.minted` counts.
Times are in ticks, distances in world units.
"""

from perdure import Game, despawn, emit, f64, flag, i8, i16, i64, q, rand, rand_int, reach, reply, room, spawn, u8, u16, u32

game = Game("arena", tick_hz=20, world=(4096, 4096), interest=400, hysteresis=4.0, max_visible=512)

SHIP_SPEED = 200.0
BULLET_SPEED = 600.0
BULLET_TICKS = 24
RELOAD_TICKS = 6
DAMAGE = 20
RESPAWN_TICKS = 40
PROTECTED_TICKS = 30
SHIP_RADIUS = 12.0
COIN_RADIUS = 20.0
BORDER_STRIP = 40.0  # how far from a border of its zone a thing may be that reaches over it
COINS_PER_ZONE = 24
DRONES_PER_ZONE = 4
MINT_EVERY_TICKS = 10
COIN_VALUE = 5


@game.entity(capacity=2048, avatar=True)
class Ship:
    x: f64 = q(0, 4096, step=1 / 16, interpolate=True)
    y: f64 = q(0, 4096, step=1 / 16, interpolate=True)
    heading: u8 = q(0, 7)  # eighths of a turn, 0 is east, 2 is south
    hp: i16 = q(0, 100)
    drone: flag
    alive: flag
    gold: i64 = q(0, 1_000_000, to="owner")
    ammo: u8 = q(0, 50, to="owner")
    mx: i8
    my: i8
    reload: u8
    wait: u16  # ticks to respawn, or of protection
    protected: u8


@game.entity(capacity=2048)
class Bullet:
    x: f64 = q(0, 4096, step=1 / 16, interpolate=True)
    y: f64 = q(0, 4096, step=1 / 16, interpolate=True)
    vx: f64
    vy: f64
    by: i64
    left: u8


@game.entity(capacity=1024)
class Coin:
    x: f64 = q(0, 4096, step=1 / 4)
    y: f64 = q(0, 4096, step=1 / 4)
    value: i64 = q(0, 1_000_000)


@game.command
class Steer:
    mx: i8 = q(-1, 1)
    my: i8 = q(-1, 1)
    fire: flag


@game.event(radius=500)
class Hit:
    who: u32
    by: u32
    damage: u8


@game.event(radius=800)
class Died:
    who: u32
    by: u32


@game.event(radius=300)
class Picked:
    who: u32
    value: i64 = q(0, 1_000_000)


@game.effect(source=Bullet, target=Ship, capacity=64)
class Hurt:
    by: i64
    damage: u8


@game.effect(source=Ship, target=Coin, capacity=64)
class Pick:
    pass


@game.effect(source=Coin, target=Ship, capacity=0)
class Gain:
    value: i64


@game.totals
class Totals:
    minted: i64
    drones_made: i64


@game.function
def heading_of(mx, my, before):
    """Return eighths of a turn for a direction of -1, 0, 1 each; the old heading when standing still."""
    if mx == 0 and my == 0:
        return before
    if my == 0:
        return 0 if mx > 0 else 4
    if mx == 0:
        return 2 if my > 0 else 6
    if my > 0:
        return 1 if mx > 0 else 3
    return 7 if mx > 0 else 5


@game.function
def direction(heading):
    """Return the unit vector of a heading; constants, since sin and cos differ between machines."""
    d = 0.7071067811865476
    if heading == 0:
        return 1.0, 0.0
    if heading == 1:
        return d, d
    if heading == 2:
        return 0.0, 1.0
    if heading == 3:
        return -d, d
    if heading == 4:
        return -1.0, 0.0
    if heading == 5:
        return -d, -d
    if heading == 6:
        return 0.0, -1.0
    return d, -d


@game.function
def place(w, ship: Ship, salt):
    """Put a ship somewhere in this zone, alive and protected."""
    ship.x = w.x0 + rand(w, ship.id, salt) * (w.x1 - w.x0 - 1.0)
    ship.y = w.y0 + rand(w, ship.id, salt + 1) * (w.y1 - w.y0 - 1.0)
    ship.hp = 100
    ship.ammo = 50
    ship.alive = 1
    ship.protected = PROTECTED_TICKS
    ship.wait = 0


@game.function
def fly(w, ship: Ship, mx, my):
    ship.mx = mx
    ship.my = my
    ship.heading = heading_of(mx, my, ship.heading)
    scale = 0.7071067811865476 if mx != 0 and my != 0 else 1.0
    ship.x = min(max(ship.x + mx * scale * SHIP_SPEED * w.dt, 0.0), w.width - 0.0625)
    ship.y = min(max(ship.y + my * scale * SHIP_SPEED * w.dt, 0.0), w.height - 0.0625)


@game.function
def shoot(w, ship: Ship):
    if ship.reload != 0 or ship.ammo == 0 or room(w.bullet) == 0:
        return
    dx, dy = direction(ship.heading)
    bullet = spawn(w, w.bullet)
    bullet.x = ship.x + dx * (SHIP_RADIUS + 2.0)
    bullet.y = ship.y + dy * (SHIP_RADIUS + 2.0)
    bullet.vx = dx * BULLET_SPEED
    bullet.vy = dy * BULLET_SPEED
    bullet.by = ship.id
    bullet.left = BULLET_TICKS
    ship.ammo -= 1
    ship.reload = RELOAD_TICKS


@game.function
def die(w, ship: Ship, by):
    """The ship's gold falls to the ground as one coin; where there is no room for a coin, the ship keeps it."""
    died = emit(w, w.died, ship.x, ship.y)
    died.who = ship.id & 0xFFFFFFFF
    died.by = by & 0xFFFFFFFF
    if ship.gold > 0 and room(w.coin) > 0:
        coin = spawn(w, w.coin)
        coin.x = ship.x
        coin.y = ship.y
        coin.value = ship.gold
        ship.gold = 0
    ship.alive = 0
    ship.hp = 0
    ship.wait = RESPAWN_TICKS


@game.function
def touch(a, b, distance):
    dx, dy = a.x - b.x, a.y - b.y
    return dx * dx + dy * dy < distance * distance


@game.function
def strike(w, ship: Ship, damage, by):
    hit = emit(w, w.hit, ship.x, ship.y)
    hit.who = ship.id & 0xFFFFFFFF
    hit.by = by & 0xFFFFFFFF
    hit.damage = damage
    ship.hp -= damage
    if ship.hp <= 0:
        die(w, ship, by)


@game.function
def collect(w, ship: Ship, value):
    picked = emit(w, w.picked, ship.x, ship.y)
    picked.who = ship.id & 0xFFFFFFFF
    picked.value = value
    ship.gold += value


@game.function
def move_ships(w):
    for i in range(len(w.ship.rows)):
        ship = w.ship.rows[i]
        steer = w.steer[i]
        if ship.reload > 0:
            ship.reload -= 1
        if ship.protected > 0:
            ship.protected -= 1
        if not ship.alive:
            if ship.wait > 0:
                ship.wait -= 1
            elif ship.drone:
                despawn(ship)
            else:
                place(w, ship, 10)
            continue
        if ship.drone:
            think(w, ship)
            continue
        if steer.given:
            fly(w, ship, steer.mx, steer.my)
            if steer.fire:
                ship.protected = 0  # else who logs in again and again shoots, and is never hit
                shoot(w, ship)
        else:
            fly(w, ship, ship.mx, ship.my)
        if w.tick % 20 == 0 and ship.ammo < 50:
            ship.ammo += 1


@game.function
def think(w, ship: Ship):
    """A drone changes its course about once a second and shoots now and then; it stays in its zone."""
    mx, my = ship.mx, ship.my
    if rand(w, ship.id, 20) < 0.05:
        mx = rand_int(w, ship.id, 21, 3) - 1
        my = rand_int(w, ship.id, 22, 3) - 1
    if ship.x < w.x0 + 40.0:
        mx = 1
    if ship.x > w.x1 - 40.0:
        mx = -1
    if ship.y < w.y0 + 40.0:
        my = 1
    if ship.y > w.y1 - 40.0:
        my = -1
    fly(w, ship, mx, my)
    if rand(w, ship.id, 23) < 0.05:
        shoot(w, ship)
        ship.ammo = 50


@game.function
def move_bullets(w):
    for bullet in w.bullet.rows:
        bullet.x += bullet.vx * w.dt
        bullet.y += bullet.vy * w.dt
        outside = bullet.x < 0.0 or bullet.y < 0.0 or bullet.x >= w.width or bullet.y >= w.height
        if bullet.left == 0 or outside:
            despawn(bullet)
            continue
        bullet.left -= 1
        for ship in w.ship.rows:
            if ship.alive and not ship.protected and ship.id != bullet.by and touch(ship, bullet, SHIP_RADIUS):
                strike(w, ship, DAMAGE, bullet.by)
                despawn(bullet)
                break


@game.function
def pick_up(w):
    for coin in w.coin.rows:
        for ship in w.ship.rows:
            if ship.alive and not ship.drone and touch(ship, coin, COIN_RADIUS):
                collect(w, ship, coin.value)
                coin.value = 0
                despawn(coin)
                break


@game.function
def populate(w):
    """Mint a coin and make a drone now and then, up to the zone's share."""
    if w.tick % MINT_EVERY_TICKS == 0 and len(w.coin.rows) < COINS_PER_ZONE and room(w.coin) > 0:
        coin = spawn(w, w.coin)
        coin.x = w.x0 + rand(w, coin.id, 30) * (w.x1 - w.x0 - 1.0)
        coin.y = w.y0 + rand(w, coin.id, 31) * (w.y1 - w.y0 - 1.0)
        coin.value = COIN_VALUE
        w.totals.minted += COIN_VALUE
    if w.tick % 40 == 1:
        drones = 0
        for ship in w.ship.rows:
            drones += ship.drone
        if drones < DRONES_PER_ZONE and room(w.ship) > 0:
            drone = spawn(w, w.ship)
            drone.drone = 1
            w.totals.drones_made += 1
            place(w, drone, 40)


@game.function
def by_border(w, thing):
    return min(thing.x - w.x0, w.x1 - thing.x, thing.y - w.y0, w.y1 - thing.y) < BORDER_STRIP


@game.across
def across(w):
    """Bullets that touch a ship of the next zone, ships that touch a coin of it."""
    for bullet in w.bullet.rows:
        if not by_border(w, bullet):
            continue
        for ship in w.ship.ghosts:
            if ship.alive and not ship.protected and ship.id != bullet.by and touch(ship, bullet, SHIP_RADIUS):
                hurt = reach(w, w.hurt, bullet, ship)
                hurt.by = bullet.by
                hurt.damage = DAMAGE
                break
    for ship in w.ship.rows:
        if not ship.alive or ship.drone or not by_border(w, ship):
            continue
        for coin in w.coin.ghosts:
            if touch(ship, coin, COIN_RADIUS):
                reach(w, w.pick, ship, coin)


@game.sends(Hurt)
def hurt_sent(w, bullet, hurt):
    despawn(bullet)
    return True


@game.takes(Hurt)
def hurt_taken(w, ship, hurt):
    if ship.alive and not ship.protected:
        strike(w, ship, hurt.damage, hurt.by)


@game.takes(Pick)
def pick_taken(w, coin, pick):
    gain = reply(w, w.gain, pick)
    gain.value = coin.value
    coin.value = 0
    despawn(coin)


@game.takes(Gain)
def gain_taken(w, ship, gain):
    collect(w, ship, gain.value)


@game.returned(Gain)
def gain_back(w, coin, gain):
    """Whoever picked it up has left the world: the mint has it back."""
    w.totals.minted -= gain.value


@game.join
def join(w, ship, returning):
    if not returning or not ship.alive:
        place(w, ship, 50)
    ship.protected = PROTECTED_TICKS


@game.resume
def resume(w, ship):
    ship.protected = PROTECTED_TICKS


@game.leave
def leave(w, ship):
    ship.mx = 0
    ship.my = 0


@game.tick
def tick(w):
    move_ships(w)
    move_bullets(w)
    pick_up(w)
    populate(w)
