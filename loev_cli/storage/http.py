"""An HTTP client that no public server can send to a machine behind the firewall.

A server may answer with a redirect to 127.0.0.1, to the network at home, or to the address at which
a cloud tells a machine its own credentials. What a user names is asked whatever its address is; a
request that has been to a public address is not sent on to one that is not. Addresses are checked
as they are connected to, so a name that resolves differently the second time changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

CONNECT_TIMEOUT_S = 30.0
SILENCE_TIMEOUT_S = 60.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddressError(OSError):
    """A request that has been to a public address was to be sent to a private one."""


@dataclass
class _Request:
    """One request and its redirects: where it is going, and whether it has been anywhere public."""

    host: str
    has_been_public: bool = False

    def goes_to(self, *, is_public: bool, address: str) -> None:
        if self.has_been_public and not is_public:
            raise PrivateAddressError(
                f"a public server redirects to {self.host} ({address}), which is not public"
            )
        self.has_been_public |= is_public


_request: ContextVar[_Request | None] = ContextVar("_request", default=None)


async def get_client(**options: Any) -> Any:
    """A session for fsspec's ``HTTPFileSystem``, which gives it the options."""
    import aiohttp

    is_public_by_host: dict[str, bool] = {}  # of connections that may be used again

    def new_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        request = _request.get()
        if request is not None:
            is_public = is_public_address(str(address[0]))
            request.goes_to(is_public=is_public, address=str(address[0]))
            is_public_by_host[request.host] = is_public
        return socket.socket(family, kind, protocol)

    async def on_start(session: Any, context: Any, event: Any) -> None:
        _request.set(_Request(event.url.raw_host or ""))

    async def on_redirect(session: Any, context: Any, event: Any) -> None:
        request, to = _request.get(), event.response.headers.get("Location", "")
        if request is not None:
            request.host = event.url.join(type(event.url)(to)).raw_host or ""

    async def on_reuse(session: Any, context: Any, event: Any) -> None:
        request = _request.get()
        if request is not None:
            is_public = is_public_by_host.get(request.host, False)
            request.goes_to(is_public=is_public, address="an open connection")

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(on_start)
    trace.on_request_redirect.append(on_redirect)
    trace.on_connection_reuseconn.append(on_reuse)
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S
    )
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=new_socket, loop=options.get("loop")),
        trace_configs=[trace],
        timeout=timeout,
        **options,
    )


def is_public_address(text: str) -> bool:
    """Whether an IP address is one of the public Internet, also where it is wrapped in another."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast
