"""docs/GAMES.md shows a game that loads, and limits that are the code's."""

from __future__ import annotations

import re
from pathlib import Path

from perdure.game import contract
from perdure.game.loading import load_game
from perdure.game.schema import MAX_WIRE_BYTES
from shard.program import OUT_CAPACITY, SPAWN_BUFFER

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "GAMES.md").read_text()


def test_the_game_on_the_page_loads(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    file = tmp_path / "walk.py"
    file.write_text(source)
    assert [c.name for c in load_game(file).game.commands] == ["go"]


def test_the_limits_on_the_page_are_the_codes() -> None:
    said = (
        f"Entity types {contract.MAX_ENTITY_TYPES}, commands 250, rows a table and zone {contract.MAX_CAPACITY:,}, "
        f"bytes of a command {contract.MAX_COMMAND_BYTES}, effects proposed a zone and tick {contract.MAX_PROPOSALS}, "
        f"spawns a table and tick {SPAWN_BUFFER}, wire bytes a field {MAX_WIRE_BYTES},\ndepartures a zone and tick {OUT_CAPACITY},"
    )
    assert said in TEXT
    assert f"in {len((ROOT / 'games' / 'tag.py').read_text().splitlines())} lines" in TEXT


def test_every_hook_and_every_name_of_the_world_is_on_the_page() -> None:
    assert all(f"@game.{hook}`" in TEXT for hook in contract.HOOKS)
    assert all(f"@game.{hook}(Hurt)`" in TEXT for hook in contract.EFFECT_HOOKS)
    assert all(re.search(rf"\b{name}\b", TEXT) for name in contract.RESERVED - {"id_base", "counters"})
