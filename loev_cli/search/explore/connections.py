"""Bounds on the time and number of connections, which uvicorn itself does not set.

Otherwise anyone could hold connections open with incomplete requests, even without a token, and a
few hundred of them would block everyone else.

- A request must be complete within :data:`REQUEST_TIMEOUT_S` of its first byte, or of the
  connection.
- A client that reads nothing of a response for :data:`SEND_TIMEOUT_S` is disconnected. A player
  that was paused longer requests the missing range again.
- Beyond :data:`MAX_CONNECTIONS` a new one replaces the one that has been idle longest; if all
  are active, it is refused.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 64
REQUEST_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 120.0
_CHECK_EVERY_S = 0.5


class BoundedProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 with the limits above."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._began = self.loop.time()  # of the request that is awaited
        self._is_coming = True  # a request, or the first one is awaited
        self._stuck_since: float | None = None  # the client reads nothing
        self._check_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._make_room():
            transport.abort()  # type: ignore[attr-defined]
            return
        super().connection_made(transport)  # type: ignore[arg-type]
        self._check_timer = self.loop.call_later(_CHECK_EVERY_S, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check_timer is None:  # it was refused
            return
        self._check_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._check_timer is None:
            return
        if not self._is_coming:
            self._began = self.loop.time()
        super().data_received(data)
        # After an answer the time to the next request is uvicorn's, which keeps alive for 5 s.
        is_idle = self.timeout_keep_alive_task is not None and not self.conn.trailing_data[0]
        self._is_coming = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not is_idle

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck_since = None

    @property
    def _is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _make_room(self) -> bool:
        others = [one for one in self.connections if isinstance(one, BoundedProtocol)]
        if len(others) < MAX_CONNECTIONS:
            return True
        waiting = [one for one in others if one._is_waiting]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one._began)
        self.connections.discard(oldest)  # now, not when its end is reported
        oldest.transport.abort()
        return True

    def _check(self) -> None:
        now = self.loop.time()
        if self.transport.is_closing() and self._stuck_since is None:
            self._stuck_since = now  # the rest is small, but may never be read
        is_late = self._is_coming and now - self._began > REQUEST_TIMEOUT_S
        is_stuck = self._stuck_since is not None and now - self._stuck_since > SEND_TIMEOUT_S
        if is_late or is_stuck:
            self.transport.abort()
        self._check_timer = self.loop.call_later(_CHECK_EVERY_S, self._check)
