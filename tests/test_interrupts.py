"""Signals wait for the end of a step, then reach whoever handled them before."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from loev_cli.interrupts import Interrupts


class Stopped(BaseException):
    pass


@pytest.fixture
def raising() -> Iterator[None]:
    """SIGTERM raises Stopped, as the command line's handler raises."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = signal.signal(signal.SIGTERM, handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("raising")
def test_a_signal_is_raised_where_it_is_checked_for() -> None:
    done = []
    with pytest.raises(Stopped, match=str(int(signal.SIGTERM))), Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("the rest of the step")
        interrupts.check()
        done.append("another step")
    assert done == ["the rest of the step"]


@pytest.mark.usefixtures("raising")
def test_handlers_are_back_in_place_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGTERM)
            interrupts.check()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_cannot_set_handlers_and_do_not_try() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with Interrupts() as interrupts:
                interrupts.check()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
