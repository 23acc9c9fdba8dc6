"""Changes of presence from readings and hints."""

from __future__ import annotations

from perdure.ledger.values import Presence
from perdure.placement.presence import PresenceBook, PresenceKind
from perdure.wire.identifiers import LOBBY


def at(name: str, place: int = 0, gateway: int = 7, session: int = 1) -> Presence:
    return Presence(ord(name), name, place, gateway, 0, session, 0)


def kinds(book: PresenceBook, *online: Presence) -> list[tuple[str, PresenceKind]]:
    return [(change.name, change.kind) for change in book.read(online)]


def test_the_first_reading_is_the_base() -> None:
    book = PresenceBook()
    assert not book.started
    assert kinds(book, at("a")) == []
    assert book.started
    assert book.gateways() == {7}


def test_two_readings_tell_what_changed() -> None:
    book = PresenceBook()
    book.read([at("a"), at("b"), at("c"), at("d"), at("e")])
    found = kinds(book, at("a"), at("b", place=3), at("c", gateway=-1), at("d", session=2), at("f"))
    assert found == [
        ("b", PresenceKind.MOVE),
        ("c", PresenceKind.DETACH),
        ("d", PresenceKind.ATTACH),
        ("e", PresenceKind.LEAVE),
        ("f", PresenceKind.ENTER),
    ]
    assert kinds(book, at("a"), at("b", place=3), at("c", gateway=8), at("d", session=2), at("f")) == [("c", PresenceKind.ATTACH)]


def test_hints_keep_the_book_current() -> None:
    book = PresenceBook()
    assert book.hint(at("a")) == [], "without a reading there is nothing to compare with"
    book.read([])
    assert [c.kind for c in book.hint(at("a"))] == [PresenceKind.ENTER]
    assert [c.kind for c in book.hint(at("a"))] == []
    assert [c.kind for c in book.hint(at("a", place=2))] == [PresenceKind.MOVE]
    assert [sighting.name for sighting in book.online()] == ["a"]
    assert [c.kind for c in book.hint(at("a", place=LOBBY, gateway=-1))] == [PresenceKind.LEAVE]
    assert book.hint(at("a", place=LOBBY, gateway=-1)) == []
    assert book.online() == []


def test_changes_are_numbered_and_bounded() -> None:
    book = PresenceBook(length=3)
    book.read([])
    for name in "abcde":
        book.hint(at(name))
    assert book.number == 5
    assert [(change.number, change.name) for change in book.since(0)] == [(3, "c"), (4, "d"), (5, "e")]
    assert [change.name for change in book.since(4)] == ["e"]
    assert book.since(5) == []
