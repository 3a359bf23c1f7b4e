"""Who may ask for what, how long, and how many at once; headers of every response.

Any page open in a local browser can send requests to 127.0.0.1, so another site could try to read a
library. Each of these checks alone prevents it:

- the ``Host`` must be this machine's loopback name, which rejects DNS rebinding;
- an ``Origin`` must be our own, and requests marked cross-site by the browser are refused;
- no response carries CORS headers, and all carry ``Cross-Origin-Resource-Policy: same-origin``.

If bound to a non-loopback address, every request also needs the token: once as ``/?token=...``,
afterwards as a same-site cookie; or as a bearer token.

uvicorn bounds neither the time nor the number of connections. Otherwise anyone could hold
connections open with incomplete requests, even without a token, and a few hundred of them would
block everyone else.

- A request must be complete within :data:`REQUEST_TIMEOUT_S` of its first byte, or of the
  connection.
- A client that reads nothing of a response for :data:`SEND_TIMEOUT_S` is disconnected. A player
  that was paused longer requests the missing range again.
- Beyond :data:`MAX_CONNECTIONS` a new one replaces the one that has been idle longest; if all
  are active, it is refused.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 64
REQUEST_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 120.0
_CHECK_EVERY_S = 0.5

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_METHODS = frozenset({"GET", "HEAD"})
# Nothing before it (user@), and nothing after it (/path, ?query, #fragment).
_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")

_HEADERS = {
    # Scripts, styles and sound from here only; no frames, forms or plug-ins at all.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def new_token() -> str:
    """A random token."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Access:
    """Access rules.

    Attributes:
        token: required in every request; None: no token, local access only.
        host: the requested name or address, also allowed as ``Host``.
    """

    token: str | None = None
    host: str = "127.0.0.1"

    def allows_host(self, value: str | None) -> bool:
        """Whether a ``Host`` header is allowed."""
        name = _name_of(value or "")
        if not name:
            return False
        return self.token is not None or name in _LOOPBACK_NAMES | {self.host.lower()}

    def knows_token(self, given: str | None) -> bool:
        """Whether the token is correct, compared in constant time."""
        if self.token is None:
            return True
        return hmac.compare_digest((given or "").encode(), self.token.encode())


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # no websockets here
            return

        headers = Headers(scope=scope)
        cookie_name = f"loev_token_{scope['server'][1]}"  # cookies are shared between ports
        token, in_url = _token_of(scope, headers, cookie_name)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = MutableHeaders(raw=message["headers"])
                for name, value in _HEADERS.items():
                    ours[name] = value
                ours.setdefault("cache-control", "no-store")
                if in_url and self._access.token and message["status"] < 400:
                    cookie = f"{cookie_name}={self._access.token}"
                    ours.append("set-cookie", f"{cookie}; HttpOnly; SameSite=Strict; Path=/")
                message["headers"] = ours.raw
            await send(message)

        refused = self._refusal(scope, headers, token)
        app: Any = self._app if refused is None else refused
        await app(scope, receive, send_guarded)

    def _refusal(
        self, scope: Scope, headers: Headers, token: str | None
    ) -> PlainTextResponse | None:
        if not self._access.allows_host(headers.get("host")):
            return _refuse(403, "Host header not allowed.")
        if scope["method"] not in _METHODS:
            return _refuse(405, "Only GET and HEAD are allowed.")
        origin = headers.get("origin")
        if origin is not None and not _is_same(origin, headers["host"], scope["scheme"]):
            return _refuse(403, "Cross-origin request refused.")
        # Another site may link to the page, but not embed or fetch any part of it.
        from_elsewhere = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        opens_page = scope["path"] == "/" and headers.get("sec-fetch-dest") == "document"
        if from_elsewhere and not opens_page:
            return _refuse(403, "Cross-origin request refused.")
        if not self._access.knows_token(token):
            return _refuse(
                401, "Token missing or wrong: open the full address that loev explore printed."
            )
        return None


def _refuse(status: int, text: str) -> PlainTextResponse:
    return PlainTextResponse(f"{text}\n", status)


def _token_of(scope: Scope, headers: Headers, cookie_name: str) -> tuple[str | None, bool]:
    """The token of a request, and whether it is in the URL."""
    if scope["path"] == "/":
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if given:
            return given[0], True
    kind, _, bearer = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return bearer.strip(), False
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(cookie_name)
    except CookieError:
        cookie = None
    return (cookie.value if cookie else None), False


def _name_of(host: str) -> str:
    """``[::1]:80`` -> ``::1``; empty if it is not a name or address with, perhaps, a port."""
    found = _HOST.fullmatch(host)
    return (found["address"] or found["name"]).lower() if found else ""


def _is_same(origin: str, host: str, scheme: str) -> bool:
    return origin.lower() == f"{scheme}://{host}".lower()


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
