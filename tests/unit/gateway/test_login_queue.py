"""The queue of logins: resumes first, then first come, first served; bounded; with an estimate by how it goes."""

from __future__ import annotations

from gateway.login_queue import LONGEST_ESTIMATE_S, LoginQueue
from gateway.metrics import GatewayCounters
from gateway.session import Session


def sessions(count: int) -> list[Session]:
    return [Session(None, lambda _: None, GatewayCounters()) for _ in range(count)]


def test_resumes_go_before_logins_and_each_kind_in_its_order() -> None:
    queue, (a, b, c, d) = LoginQueue(4), sessions(4)
    for session, resumes in ((a, False), (b, False), (c, True), (d, True)):
        assert queue.join(session, resumes)
    assert list(queue) == [c, d, a, b]
    assert queue.first(True) is c and queue.first(False) is a
    queue.forget(c)
    queue.forget(a)
    assert list(queue) == [d, b]


def test_it_is_bounded() -> None:
    queue, (a, b, c) = LoginQueue(2), sessions(3)
    assert queue.join(a, False) and queue.join(b, True) and not queue.join(c, True)
    queue.forget(a)
    assert queue.join(c, True) and len(queue) == 2
    assert not LoginQueue(0).join(a, True)


def test_the_estimate_follows_how_it_goes() -> None:
    queue = LoginQueue(10)
    assert [queue.estimate_s(position, 0.0) for position in (1, 7)] == [1, 7]
    for now_s in (10.0, 15.0, 20.0, 25.0):
        queue.admitted(now_s)
    assert queue.estimate_s(1, 25.0) == 5 and queue.estimate_s(4, 25.0) == 20
    assert queue.estimate_s(1, 85.0) == 30, "nobody came in for a while"
    assert queue.estimate_s(10_000, 25.0) == LONGEST_ESTIMATE_S
