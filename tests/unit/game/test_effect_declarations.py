"""What is wrong with effects is said in one line at load: which file, which line, what, and how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.game.loading import load_game
from tests.unit.game.test_declarations import COIN, GAME, HIT, MAN, RUN, TICK, TOTALS, fault, marked, write

USES = "from perdure import reach, reply\n"
GRAB = "@game.effect(source=Man, target=Coin)\nclass Grab:\n    much: u8\n\n\n"
GIVE = "@game.effect(source=Coin, target=Man)\nclass Give:\n    value: u8\n\n\n"
TAKES = """\
@game.takes(Grab)
def grabbed(w, coin, grab):
    give = reply(w, w.give, grab)
    give.value = coin.value + grab.much
    despawn(coin)


@game.takes(Give)
def given(w, man, give):
    man.hp += give.value


@game.returned(Give)
def back(w, coin, give):
    if coin is not None:
        coin.value = give.value
    w.totals.made -= give.value


@game.sends(Grab)
def sent(w, man, grab):
    return man.hp > grab.much


"""
ACROSS = """\
@game.across
def across(w):
    for man in w.man.rows:
        for coin in w.coin.ghosts:
            if coin.x - man.x < 3.0:
                grab = reach(w, w.grab, man, coin)
                grab.much = 3 + w.tick % 2


"""
ALL = (GAME, USES, MAN, COIN, RUN, HIT, TOTALS)


def test_effects_as_they_are_meant_are_taken(tmp_path: Path) -> None:
    game = load_game(write(tmp_path, *ALL, GRAB, GIVE, TAKES, ACROSS, TICK)).game
    assert [e.name for e in game.effects] == ["grab", "give"]
    assert sorted(game.effect_hooks) == [("returned", "give"), ("sends", "grab"), ("takes", "give"), ("takes", "grab")]


WRONG_EFFECTS = [
    ("source", "@game.effect(source=Run, target=Coin)  #!\nclass Grab:\n    pass\n", "source='run' is no entity of this game"),
    ("range", "@game.effect(source=Man, target=Coin)\nclass Grab:\n    much: u8 = q(0, 3)  #!\n", "effects never leave the server"),
    ("name of its own", "@game.effect(source=Man, target=Coin)\nclass Grab:\n    source: u8  #!\n", "this name is a field of every row"),
    ("capacity", "@game.effect(source=Man, target=Coin, capacity=129)  #!\nclass Grab:\n    pass\n", "128 for all effects of a game"),
    ("taken name", "@game.effect(source=Man, target=Coin)  #!\nclass Seed:\n    pass\n", "the name 'seed' is taken"),
    ("nobody takes it", "@game.effect(source=Man, target=Coin)  #!\nclass Grab:\n    pass\n\n\n" + TICK, "write @game.takes(Grab)"),
    ("no effect", "@game.takes(Coin)  #!\ndef taken(w, coin, grab):\n    pass\n", "@game.takes(Coin) names no effect"),
    ("arguments", GRAB + "@game.takes(Grab)  #!\ndef taken(w, coin):\n    pass\n", "@game.takes takes 3 arguments, this function has 2"),
    ("twice", GRAB + GIVE + TAKES + "@game.takes(Grab)  #!\ndef more(w, coin, grab):\n    pass\n", "@game.takes(Grab) stands twice"),
    ("no answer", GRAB + "@game.takes(Grab)\ndef taken(w, coin, grab):\n    pass\n\n\n" + TICK
     + "@game.sends(Grab)  #!\ndef sent(w, man, grab):\n    man.hp -= 1\n", "@game.sends returns nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "text"), [case[1:] for case in WRONG_EFFECTS], ids=[case[0] for case in WRONG_EFFECTS])
def test_a_wrong_effect_is_named_by_its_line(tmp_path: Path, source: str, text: str) -> None:
    line, rest = fault(tmp_path, *ALL, source)
    assert text in rest
    assert line == marked(*ALL, source)


def test_what_reaches_over_borders_must_be_declared(tmp_path: Path) -> None:
    parts = (*ALL, "@game.across  #!\ndef across(w):\n    pass\n\n\n", TICK)
    line, rest = fault(tmp_path, *parts)
    assert line == marked(*parts)
    assert "@game.across has nothing to propose" in rest


WRONG_RULES = [
    ("across", "for ghost in w.man.ghosts:\n        ghost.hp = 3  #!\n", "'hp' of a ghost is written; ghosts are read-only"),
    ("across", "w.man.ghosts[0].hp -= 3  #!\n", "ghosts are read-only"),
    ("across", "for man in w.man.rows:\n        man.hp = 3  #!\n", "'hp' is written in @game.across"),
    ("across", "w.totals.made += 1  #!\n", "'made' is written in @game.across"),
    ("across", "for coin in w.coin.ghosts:\n        despawn(coin)  #!\n", "despawn() in @game.across, which writes nothing"),
    ("across", "coin = spawn(w, w.coin)  #!\n", "spawn() in @game.across"),
    ("across", "w.counters[0] = 3  #!\n", "@game.across writes to an array"),
    (
        "across",
        "grab = reach(w, w.grab, w.man.rows[0], w.man.ghosts[0])  #!\n",
        "the target of grab is given as man; it was declared to be coin",
    ),
    ("across", "grab = reach(w, w.hit, w.man.rows[0], w.coin.ghosts[0])  #!\n", "reach() is given w.hit, which is no effect"),
    (
        "across",
        "grab = reach(w, w.grab, w.man.rows[0], w.coin.ghosts[0])\n    grab.muck = 3  #!\n",
        "grab has no 'muck'; did you mean 'much'?",
    ),
    ("across", "grab = reach(w, w.grab, w.man.rows[0], w.coin.ghosts[0])\n    grab.source = 3  #!\n", "it says between whom it is"),
    ("across", "give = reply(w, w.give, 3)  #!\n", "reply() in @game.across; only @game.takes may call it"),
    ("tick", "n = len(w.coin.ghosts)  #!\n", "ghosts are read in @game.tick"),
    ("tick", "grab = reach(w, w.grab, w.man.rows[0], w.coin.rows[0])  #!\n", "reach() in @game.tick; only @game.across may call it"),
]


@pytest.mark.parametrize(("hook", "source", "text"), WRONG_RULES, ids=[text[:40] for *_, text in WRONG_RULES])
def test_what_may_not_be_done_here_is_named_by_its_line(tmp_path: Path, hook: str, source: str, text: str) -> None:
    rules = f"@game.{hook}\ndef hook(w):\n    {source}\n\n"
    parts = (*ALL, GRAB, GIVE, TAKES, rules, "" if hook == "tick" else TICK)
    line, rest = fault(tmp_path, *parts)
    assert text in rest
    assert line == marked(*parts)


def test_functions_that_hooks_call_are_in_their_place_too(tmp_path: Path) -> None:
    looks = "@game.function\ndef look(w):\n    return len(w.coin.ghosts)  #!\n\n\n"
    tick = "@game.tick\ndef tick(w):\n    n = look(w)\n\n\n"
    across = "@game.across\ndef across(w):\n    n = look(w)\n\n\n"
    assert load_game(write(tmp_path, *ALL, GRAB, GIVE, TAKES, looks, across, TICK)).game.name == "trial"
    parts = (*ALL, GRAB, GIVE, TAKES, looks, across, tick)
    assert fault(tmp_path, *parts)[0] == marked(*parts)
    answers = "@game.function\ndef answer(w, grab: Grab):\n    give = reply(w, w.grab, grab)  #!\n\n\n"
    parts = (*ALL, GRAB, GIVE, answers, TAKES, TICK)
    line, rest = fault(tmp_path, *parts)
    assert line == marked(*parts)
    assert "grab goes from man to coin, an answer to grab from coin to man" in rest
