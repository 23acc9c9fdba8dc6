"""A wrong declaration or rule is one line: which file, which line, what, and how to mend it. Before anything compiles."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.game.contract import Game, GameError, f64, q
from perdure.game.loading import load_game
from perdure.game.schema import FieldSchema, Schema
from shard.warmup import compile_fault, main

GAMES = Path(__file__).resolve().parents[3] / "games"

HEAD = """\
from perdure import Game, despawn, emit, f32, f64, flag, i8, i16, i64, q, rand, room, spawn, u8, u16, u32
"""
GAME = """\
game = Game("trial", world=(512, 512), interest=100)
"""
MAN = """\
@game.entity(capacity=16, avatar=True)
class Man:
    x: f64 = q(0, 512, step=1 / 16)
    y: f64 = q(0, 512, step=1 / 16)
    hp: u8
"""
COIN = """\
@game.entity(capacity=16)
class Coin:
    x: f64 = q(0, 512, step=1 / 16)
    y: f64 = q(0, 512, step=1 / 16)
    value: u8
"""
RUN = """\
@game.command
class Run:
    mx: i8 = q(-1, 1)
"""
HIT = """\
@game.event(radius=10)
class Hit:
    who: u32
"""
TOTALS = """\
@game.totals
class Totals:
    made: i64
"""
TICK = """\
@game.tick
def tick(w):
    for man in w.man.rows:
        man.x = man.x + 1.0
"""


def write(tmp_path: Path, *parts: str) -> Path:
    """Write a game; the line that holds `#!` is the one that must be named."""
    file = tmp_path / "trial.py"
    file.write_text("".join([HEAD, *parts]))
    return file


def fault(tmp_path: Path, *parts: str) -> tuple[int, str]:
    """Load a wrong game; return the line that the error names, and its text. It must be one line that names the file."""
    file = write(tmp_path, *parts)
    with pytest.raises(GameError) as caught:
        load_game(file)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{file}:"), text
    line, _, rest = text.removeprefix(f"{file}:").partition(": ")
    return int(line), rest


def marked(*parts: str) -> int:
    lines = "".join([HEAD, *parts]).splitlines()
    return next(number for number, line in enumerate(lines, 1) if "#!" in line)


def entity(*fields: str, head: str = "@game.entity(capacity=8)", name: str = "Thing") -> str:
    place = ["x: f64 = q(0, 512, step=1 / 16)", "y: f64 = q(0, 512, step=1 / 16)"]
    return "\n".join([head, f"class {name}:", *(f"    {f}" for f in [*place, *fields])]) + "\n"


WRONG_FIELDS = [
    ("hp: int  #!", "its type is not one of f32 f64 i8 i16 i32 i64 u8 u16 u32 flag"),
    ("id: i64  #!", "a field of every row already"),
    ("player: i64  #!", "a field of every row already"),
    ("hp: u8 = 7  #!", "its default is 7; write q(lo, hi, ...) or nothing"),
    ("hp: u8 = q(5, 5)  #!", "lo must be below hi"),
    ("hp: u8 = q(9, 0)  #!", "lo must be below hi"),
    ("hp: u8 = q(0, 9, step=0)  #!", "the step above 0"),
    ("hp: u8 = q(0, 9, step=-1)  #!", "the step above 0"),
    ("hp: u8 = q(-1, 9)  #!", "does not fit a whole number of type u1"),
    ("hp: u8 = q(0, 256)  #!", "does not fit a whole number of type u1"),
    ("hp: i8 = q(0, 9, step=0.5)  #!", "does not fit a whole number of type i1"),
    ('hp: u8 = q(0, 9, to="friends")  #!', 'say to="all" or (for an entity) to="owner"'),
    ("hp: f64 = q(0, 1e9, step=1e-3)  #!", "need more than 4 bytes; use a larger step"),
    ("hp: i64 = q(0, 2 ** 40)  #!", "need more than 4 bytes; use a larger step"),
    ("hp: i64 = q(0, 2 ** 54)  #!", "does not fit a whole number of type i8"),
    ("note: u8; hp: int  #! a comment: with colons", "its type is not one of"),
]


@pytest.mark.parametrize(("field", "text"), WRONG_FIELDS, ids=[f for f, _ in WRONG_FIELDS])
def test_a_wrong_field_is_named_by_its_line(tmp_path: Path, field: str, text: str) -> None:
    parts = (GAME, MAN, entity("good: u8  # another: comment", field), TICK)
    line, rest = fault(tmp_path, *parts)
    assert line == marked(*parts)
    assert text in rest
    assert rest.startswith("Thing.")


WRONG_CLASSES = [
    ("class w/o place", "@game.entity(capacity=8)  #!\nclass Thing:\n    hp: u8\n", "an entity needs its place"),
    ("place not shown", "@game.entity(capacity=8)  #!\nclass Thing:\n    x: f64\n    y: f64\n", "an entity needs its place"),
    ("place of whole numbers", "@game.entity(capacity=8)  #!\nclass Thing:\n    x: u8 = q(0, 9)\n    y: u8 = q(0, 9)\n", "needs its place"),
    ("no fields", "@game.command  #!\nclass Go:\n    pass\n", "it has no fields"),
    ("capacity 0", entity(head="@game.entity(capacity=0)  #!"), "1 to 32768 rows a zone are possible"),
    ("capacity huge", entity(head="@game.entity(capacity=40_000)  #!"), "1 to 32768 rows a zone are possible"),
    ("two avatars", entity(head="@game.entity(capacity=8, avatar=True)  #!"), "there is an avatar type already"),
    ("reserved name", entity(name="Tick", head="@game.entity(capacity=8)  #!"), "the name 'tick' is taken in `w`"),
    ("keyword", entity(name="Class", head="@game.entity(capacity=8)  #!"), "the name 'class' is taken in `w`"),
    ("name twice", "@game.command  #!\nclass Man:\n    a: u8\n", "'man' is declared already"),
    ("event radius", "@game.event(radius=0)  #!\nclass Bang:\n    a: u8\n", "radius must be above 0"),
    ("event capacity", "@game.event(radius=5, capacity=5000)  #!\nclass Bang:\n    a: u8\n", "capacity 1 to 4096"),
    ("fraction without range", "@game.command\nclass Aim:\n    angle: f32  #!\n", "needs a range: q(lo, hi, step=...)"),
    ("event fraction", "@game.event(radius=5)\nclass Bang:\n    at: f64  #!\n", "needs a range: q(lo, hi, step=...)"),
    ("owner in a command", '@game.command\nclass Aim:\n    a: u8 = q(0, 9, to="owner")  #!\n', "say to="),
    ("totals shown", "@game.totals\nclass Totals:\n    a: u8 = q(0, 9)  #!\n", "totals never leave the server"),
    ("totals twice", TOTALS + "@game.totals  #!\nclass More:\n    a: u8\n", "totals are declared twice"),
    ("long command", "@game.command  #!\nclass Long:\n" + "".join(f"    f{k}: i64\n" for k in range(31)), "a command of 248 bytes"),
    (
        "wide command",
        "@game.command  #!\nclass Wide:\n" + "".join(f"    f{k}: u8\n" for k in range(33)),
        "a command of 33 fields; 32 are possible",
    ),
]


@pytest.mark.parametrize(("source", "text"), [case[1:] for case in WRONG_CLASSES], ids=[case[0] for case in WRONG_CLASSES])
def test_a_wrong_class_is_named_by_its_line(tmp_path: Path, source: str, text: str) -> None:
    parts = (GAME, MAN, source, TICK)
    line, rest = fault(tmp_path, *parts)
    assert text in rest
    assert line == marked(*parts) or "declared already" in text  # before 3.13 Python does not know which of two classes it is


WRONG_HOOKS = [
    ("arguments", "@game.tick  #!\ndef tick(w, dt):\n    pass\n", "@game.tick takes 1 arguments, this function has 2"),
    ("join's arguments", TICK + "@game.join  #!\ndef join(w, me):\n    pass\n", "@game.join takes 3 arguments"),
    ("twice", TICK + "@game.tick  #!\ndef tock(w):\n    pass\n", "@game.tick stands twice"),
]


@pytest.mark.parametrize(("source", "text"), [case[1:] for case in WRONG_HOOKS], ids=[case[0] for case in WRONG_HOOKS])
def test_a_wrong_hook_is_named_by_its_line(tmp_path: Path, source: str, text: str) -> None:
    line, rest = fault(tmp_path, GAME, MAN, source)
    assert text in rest
    assert line == marked(GAME, MAN, source)


WRONG_RULES = [
    ("row", "    for man in w.man.rows:\n        man.hpp = 1  #!\n", "man has no 'hpp'; did you mean 'hp'?"),
    ("row by index", "    w.man.rows[0].xx += 1  #!\n", "man has no 'xx'; did you mean 'x'?"),
    ("a name for the rows", "    men = w.man.rows\n    one = men[3]\n    one.speed = 1  #!\n", "man has no 'speed'"),
    ("spawned", "    coin = spawn(w, w.coin)\n    coin.valu = 3  #!\n", "coin has no 'valu'; did you mean 'value'?"),
    ("command", "    a = w.run[0]\n    b = a.my  #!\n", "run has no 'my'; there are given, mx"),
    ("event", "    hit = emit(w, w.hit, 0.0, 0.0)\n    hit.whom = 3  #!\n", "hit has no 'whom'; did you mean 'who'?"),
    ("table", "    for c in w.coins.rows:  #!\n        pass\n", "w has no 'coins'; did you mean 'coin'?"),
    ("part of a table", "    n = len(w.coin.row)  #!\n", "coin has no 'row'; did you mean 'rows'?"),
    ("totals", "    w.totals.mad += 1  #!\n", "w.totals has no 'mad'; did you mean 'made'?"),
    ("world", "    a = w.time  #!\n", "w has no 'time'"),
    (
        "ghost",
        "    for ghost in w.man.ghosts:  #!\n        pass\n",
        "ghosts are read in @game.tick; they are in no log, so only @game.across",
    ),
    ("name", "    for man in w.man.rows:\n        man.x = SPED  #!\n", "the name 'SPED' is not defined; did you mean 'SPEED'?"),
]


@pytest.mark.parametrize(("source", "text"), [case[1:] for case in WRONG_RULES], ids=[case[0] for case in WRONG_RULES])
def test_a_misspelling_in_the_rules_is_named_by_its_line(tmp_path: Path, source: str, text: str) -> None:
    parts = (GAME, MAN, COIN, RUN, HIT, TOTALS, "SPEED = 3.0\n\n\n@game.tick\ndef tick(w):\n", source)
    line, rest = fault(tmp_path, *parts)
    assert text in rest
    assert line == marked(*parts)


def test_functions_of_the_game_are_checked_too(tmp_path: Path) -> None:
    parts = (GAME, MAN, "@game.function\ndef hurt(w, man: Man, other):\n    man.hq = 3  #!\n\n\n", TICK)
    assert fault(tmp_path, *parts) == (marked(*parts), "man has no 'hq'; there are dead, hp, id, player, x, y")
    parts = (GAME, MAN, "@game.join\ndef join(w, me, returning):\n    me.hq = 3  #!\n\n\n", TICK)
    assert fault(tmp_path, *parts)[0] == marked(*parts)


def test_what_cannot_be_followed_is_left_to_the_compiler(tmp_path: Path) -> None:
    source = """\
@game.tick
def tick(w):
    pair = [n for n in range(3)]
    a, b = w.man.rows[0], w.run[0]
    a.hp = len(pair)
    man = w.man.rows[0]
    man, other = w.run[0], w.man.rows[0]
    c = man.mx + other.hp
    for k, thing in enumerate(w.coin.rows):
        thing.value = k + c
"""
    assert load_game(write(tmp_path, GAME, MAN, COIN, RUN, source)).game.name == "trial"


def test_a_syntax_error_and_an_exception_name_their_line(tmp_path: Path) -> None:
    parts = (GAME, "class Man(:  #!\n")
    assert fault(tmp_path, *parts)[0] == marked(*parts)
    parts = (GAME, MAN, "SPEED = 1 / 0  #!\n", TICK)
    assert fault(tmp_path, *parts) == (marked(*parts), "ZeroDivisionError: division by zero")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    for parts, text in (
        ((GAME, MAN), "has no rules; decorate a function tick(w) with @game.tick"),
        ((GAME, TICK.replace("man", "coin"), COIN), "needs exactly one entity with avatar=True"),
        ((MAN.replace("@game.entity(capacity=16, avatar=True)\n", ""),), "it makes 0 Game objects"),
        ((GAME, GAME.replace("game =", "more ="), MAN, TICK), "it makes 2 Game objects"),
    ):
        with pytest.raises(GameError, match=text.replace("(", r"\(").replace(")", r"\)")):
            load_game(write(tmp_path, *parts))
    with pytest.raises(GameError, match="no game there"):
        load_game(tmp_path / "nothing")


@pytest.mark.parametrize(
    "options", [{"tick_hz": 0}, {"tick_hz": 121}, {"world": (0, 10)}, {"interest": 0}, {"max_visible": 0}, {"max_visible": 2049}]
)
def test_the_limits_of_a_game(options: dict[str, int]) -> None:
    with pytest.raises(GameError, match="tick_hz is 1 to 120"):
        Game("trial", **options)  # type: ignore[arg-type]
    with pytest.raises(GameError, match="letters, digits"):
        Game("my game")


def test_a_file_that_was_mended_loads(tmp_path: Path) -> None:
    fault(tmp_path, GAME, MAN, TICK.replace("man.x =", "man.xx ="))
    assert load_game(write(tmp_path, GAME, MAN, TICK)).game.name == "trial"


# --- what does not compile ----------------------------------------------------------------------------------------


def test_rules_that_do_not_compile_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = (GAME, MAN, '@game.tick\ndef tick(w):\n    for man in w.man.rows:\n        man.x = man.x + "one"  #!\n')
    file = write(tmp_path, *parts)
    assert main([str(file)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"{file}:{marked(*parts)}: the rules do not compile: No implementation of function")
    assert "add(float64, Literal[str](one))" in said


def test_the_compilers_words_become_one_line(tmp_path: Path) -> None:
    file = write(tmp_path, GAME, MAN, "@game.function\ndef odd(w, thing):\n    return thing.speed  #!\n\n\n", TICK)
    game = load_game(file).game
    named = compile_fault(game, KeyError("speed"))
    assert named == f"{file}:{marked(GAME, MAN, '@game.function', chr(10), 'def', chr(10), ' #!')}: no row here has a field 'speed'"
    long = f'Failed in nopython mode\nCannot bind \'args=(World(\' due to "TypeError: missing".\n\nFile "{file}", line 4:\n'
    assert compile_fault(game, ValueError(long)) == f"{file}:4: the rules do not compile: TypeError: missing"
    other = f"the 'with' construct is not supported. Raised from {file} (9)"
    assert compile_fault(game, ValueError(other)) == f"{file}:9: the rules do not compile: the 'with' construct is not supported."
    nowhere = compile_fault(game, ValueError("gone. Raised from None"))
    assert nowhere.startswith(f"{file}:")
    assert len(compile_fault(game, ValueError("x" * 5000))) < 500


# --- the sample games ---------------------------------------------------------------------------------------------


def test_the_sample_games_load_and_tag_is_short() -> None:
    arena, tag = load_game(GAMES / "arena"), load_game(GAMES / "tag")
    assert [e.name for e in arena.game.entities] == ["ship", "bullet", "coin"]
    assert set(arena.game.hooks) == {"tick", "join", "leave", "resume", "across"}
    assert len((GAMES / "tag.py").read_text().splitlines()) <= 60
    assert load_game(GAMES / "tag.py").game is tag.game, "a game is loaded once"


@pytest.mark.parametrize("name", ["arena", "tag"])
def test_a_schema_survives_the_wire_without_what_only_the_server_knows(name: str) -> None:
    schema = load_game(GAMES / name).game.schema()
    copy = Schema.from_wire(schema.to_wire())
    assert copy.hash == schema.hash
    assert copy.command_payload_bytes == schema.command_payload_bytes
    for mine, theirs in zip(schema.entities, copy.entities, strict=True):
        assert (theirs.public, theirs.owner) == (mine.public, mine.owner)
        assert all(f.to != "server" for f in theirs.fields)


@given(st.floats(0, 512, exclude_max=True))
def test_a_float_is_half_a_step_off_at_most(value: float) -> None:
    field = FieldSchema("x", "f8", "all", 0, 512, 1 / 16)
    assert abs(field.value(field.level(value)) - min(value, 512 - 1 / 16)) <= 1 / 32
    assert field.level(-5) == 0
    assert field.level(1e9) == field.levels - 1 == 512 * 16 - 1


def test_declarations_need_no_compiler_to_be_read() -> None:
    game = Game("inline", world=(10, 10))

    @game.entity(capacity=1, avatar=True)
    class Man:
        x: f64 = q(0, 10, step=1 / 8)  # type: ignore[valid-type]
        y: f64 = q(0, 10, step=1 / 8)  # type: ignore[valid-type]

    assert [f.name for f in game.entities[0].fields] == ["x", "y"]
    assert Man.__name__ == "Man"


def test_a_game_whose_file_was_moved_is_loaded_from_where_it_is(tmp_path: Path) -> None:
    """What was loaded before cannot be checked any more once its source is gone."""
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        file = write(tmp_path / folder, GAME, MAN, TICK, "# it moves\n")
        loaded = load_game(file)
        assert sys.modules[loaded.module_name].__file__ == str(file)
        file.unlink()


def test_a_zone_can_show_only_so_many(tmp_path: Path) -> None:
    big = entity(head="@game.entity(capacity=32_768, ghosts=32_768)")
    with pytest.raises(GameError, match="capacity and ghosts of all entities come to 655"):
        load_game(write(tmp_path, GAME, MAN, big, TICK))


def test_there_are_so_many_commands_and_events_at_most(tmp_path: Path) -> None:
    for kinds, head in ((251, "@game.command"), (257, "@game.event(radius=5)")):
        many = "".join(f"{head}\nclass Kind{k}:\n    a: u8\n" for k in range(kinds))
        with pytest.raises(GameError, match="at most 32 entity types, 250 commands and 256 events"):
            load_game(write(tmp_path, GAME, MAN, many, TICK))
