"""SIGINT and SIGTERM wait until a step is done: of a training, or of a run over many files.

Whatever handler was in place usually raises an exception, and it does so anywhere, also between
taking a lock and being ready to give it back: of a queue, say, whose thread would then
deadlock. Between steps nothing is held, and the state is that after a whole step.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which signals are noted; :meth:`check` passes them to the previous handler.

    In a thread other than the main one, where no handler can be set, it does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._noted: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):  # not one that is ignored, or left to the system
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def check(self) -> None:
        """Raises what the handler raises, if a signal has come."""
        if self._noted is None:
            return
        number, frame = self._noted
        self._noted = None
        handler = self._before[number]
        handler(number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = (number, frame)
