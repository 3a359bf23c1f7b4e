"""The routes of the page, and running them.

    /                            the page, with /app.js, /style.css, ...
    /api/library                 subspaces, columns, audio folder
    /api/map/SUBSPACE/LAYOUT     (N, 2) float32: places
    /api/column/NAME             type and labels of a column; .../values: (N,) float32
    /api/where?where=EXPR        (N,) uint8: which rows pass a filter
    /api/tracks?rows=1,2         rows as shown on the page
    /api/find?text=WORDS         rows whose path or tags contain these words
    /api/search?row=R&weights=A=W,B=W&k=K&where=EXPR     as ``loev search``, with its command
    /api/segments/ROW            key and tempo along a row, of a file with windows
    /api/m3u?...                 the files of the same hits, as a playlist
    /api/shown?row=R&session=S&k=K     with ``--ab``: a list of two searches, which is logged
    /api/click?list=L&rank=N           with ``--ab``: a click on it is logged
    /audio/ROW                   the file of a row, or its decoded preview

All of it but that log is read-only, and a track is named by its row alone. Numbers are
little-endian.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import shlex
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from loev_cli import bundle as bundles
from loev_cli.annotations import Annotator
from loev_cli.errors import InputError, LoevError, StoppedError, UsageError
from loev_cli.explore.audio_files import TYPES, AudioFiles, NotServedError, Previews, is_playable
from loev_cli.explore.layout import NEIGHBORS, components, layouts, neighbors
from loev_cli.explore.security import Access, BoundedProtocol, Guard
from loev_cli.explore.tracks import Tracks, wheel_place
from loev_cli.formats import FOLDERS, annotator_for
from loev_cli.row_names import path_of_row
from loev_cli.search.library import Hit, Library, Query, default_weights, parse_weights
from loev_cli.segments import find_segments
from loev_cli.track_lists import m3u_entry

if TYPE_CHECKING:
    from loev_cli.ab.interleave import Interleaver

_PAGE_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_MAX_K = 200
_MAX_ROWS = 200
_N_FOUND = 12
_GRACE_S = 1


class _NothingThereError(Exception):
    """No such row, page or subspace."""


class Explorer:
    """Handles the page's requests; thread-safe.

    Args:
        files: the library's audio files.
        interleaver: shows lists of two searches instead of the page's own.
    """

    def __init__(
        self, library: Library, files: AudioFiles, interleaver: Interleaver | None = None
    ) -> None:
        self._library = library
        self._interleaver = interleaver
        self._files = files
        self._tracks = Tracks(library, files)
        self._maps: dict[tuple[str, str], bytes] = {}
        self._loading = threading.Lock()
        self._drawing = threading.Lock()

    def about(self) -> dict[str, Any]:
        """Properties of the library."""
        library, meta = self._library, self._library.meta
        found, looked_for = self._files.n_found()
        return {
            "name": library.source.name,
            "n_tracks": len(library),
            "subspaces": list(library.subspaces),
            "layouts": layouts(len(library)),
            "weights": default_weights(library.subspaces),
            "columns": self._tracks.color_names,
            "model": str(meta["model"]),
            "audio_folder": str(self._files.root),
            "audio_found": found,
            "audio_looked_for": looked_for,
            "session": secrets.token_hex(8) if self._interleaver else None,
        }

    def map(self, subspace: str, layout: str) -> bytes:
        """(N, 2) places. The layout by neighbors is slow and does not block searches."""
        known = subspace in self._library.subspaces
        if not known or layout not in layouts(len(self._library)):
            raise _NothingThereError
        with self._loading:
            vectors = self._library.vectors[subspace]
        draw = neighbors if layout == NEIGHBORS else components
        with self._drawing:
            if (subspace, layout) not in self._maps:
                self._maps[subspace, layout] = draw(vectors).astype("<f4").tobytes()
            return self._maps[subspace, layout]

    def column(self, name: str) -> dict[str, Any]:
        return self._tracks.coloring(name).head

    def column_values(self, name: str) -> bytes:
        return self._tracks.coloring(name).values.astype("<f4").tobytes()

    def where(self, text: str) -> bytes:
        return self._library.mask(text).astype(np.uint8).tobytes()

    def tracks(self, rows: list[int]) -> list[dict[str, Any]]:
        return [self._tracks.describe(self._checked(row)) for row in rows]

    def find(self, text: str) -> list[dict[str, Any]]:
        return [self._tracks.describe(row) for row in self._tracks.find(text, _N_FOUND)]

    def search(self, row: int, weights: str, k: int, where: str) -> dict[str, Any]:
        """Hits near a row, the row itself left out, and the command that gives the same."""
        query, hits = self._hits(row, weights, k, where)
        return {
            "query": self._tracks.describe(row),
            "command": self._command(self._library.paths[row], query),
            "hits": [
                self._tracks.describe(hit.row)
                | {"rank": rank, "score": hit.score, "distances": hit.distances}
                for rank, hit in enumerate(hits, start=1)
            ],
        }

    def m3u(self, row: int, weights: str, k: int, where: str) -> bytes:
        """The same hits as an extended M3U, by full paths; those without a file left out."""
        lines = ["#EXTM3U"]
        for hit in self._hits(row, weights, k, where)[1]:
            known = self._library.labels_of(hit.row)
            with contextlib.suppress(NotServedError, ValueError):
                self._files.find(hit.row)
                file = str(self._files.root.absolute() / path_of_row(hit.path))
                title, artist = known.get("title"), known.get("artist")
                lines.append(m3u_entry(file, hit.duration_s, title=title, artist=artist))
        return "\n".join([*lines, ""]).encode("utf-8", "surrogateescape")

    def _hits(self, row: int, weights: str, k: int, where: str) -> tuple[Query, list[Hit]]:
        self._checked(row)
        # One extra result instead of excluding the row, which would copy the vectors.
        query = Query(parse_weights(weights), min(k, _MAX_K), where or None)
        with self._loading:  # subspaces are loaded on first access
            vectors = self._library.of_row(row)
        found = self._library.search(vectors, replace(query, k=query.k + 1))
        return query, [hit for hit in found if hit.row != row][: query.k]

    def segments(self, row: int) -> list[dict[str, Any]]:
        """Start and end in seconds, key and bpm of each segment; none of a file without windows, or
        if its model is not there or has no readouts."""
        library = self._library
        silent, duration_s = library.columns["silent"], library.columns["duration_s"]
        if not library.windows or silent[self._checked(row)] or self._annotator is None:
            return []
        with self._loading:
            chosen = library.windows["track"] == row
            vectors = {name: library.windows[name][chosen] for name in self._annotator.subspaces}
            start_s = library.windows["start_s"][chosen]
        found = find_segments(
            self._annotator,
            vectors,
            start_s,
            window_s=library.meta["window_s"],
            duration_s=float(duration_s[row]),
        )
        return [
            {"start_s": each.start_s, "end_s": each.end_s}
            | {name: each.answer.get(name) for name in ("key", "bpm")}
            | {"code": wheel_place(str(each.answer.get("key", "")))}
            for each in found
        ]

    @cached_property
    def _annotator(self) -> Annotator | None:
        if self._library.annotator is not None:  # of --bpm-range
            return self._library.annotator
        meta = self._library.meta
        try:
            bundle = bundles.find(str(meta["model"]))
            return annotator_for(meta, self._library.source.name, bundle)
        except LoevError:
            return None

    def shown(self, row: int, session: str, k: int) -> dict[str, Any]:
        """An interleaved list of tracks near a row; nothing says which search found which."""
        path = self._library.paths[self._checked(row)]
        if self._interleaver is None:
            raise _NothingThereError
        name, paths = self._interleaver.show(path, session[:64], min(k, _MAX_K))
        hits = [self._tracks.describe(self._library.row_of[path]) for path in paths]
        return {
            "query": self._tracks.describe(row),
            "hits": [hit | {"rank": i, "list": name} for i, hit in enumerate(hits, start=1)],
        }

    def click(self, name: str, rank: int) -> dict[str, Any]:
        if self._interleaver is None or not self._interleaver.click(name, rank):
            raise _NothingThereError
        return {}

    def audio(self, row: int) -> tuple[Any, float]:
        """The file of a row, and its duration."""
        file = self._files.find(self._checked(row))
        return file, float(self._library.columns["duration_s"][row])

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self._library):
            raise _NothingThereError
        return row

    def _command(self, path: str, query: Query) -> str:
        source = self._library.source
        words = ["loev", "search", str(source)]
        ((name, weight), *more) = query.weights.items()
        if not more and weight > 0:
            options = ["--by", name]
        else:
            options = ["--weights", ",".join(f"{n}={w:g}" for n, w in query.weights.items())]
        options += ["-k", str(query.k)]
        if query.where is not None:
            options += ["--where", query.where]
        options.append("--exclude-same-file")
        if source.is_dir() and source.suffix.lower() not in FOLDERS:  # a database has an index
            options.append("--exact")
        # A leading dash would be parsed as an option.
        words += [*options, "--", path] if path.startswith("-") else [path, *options]
        return shlex.join(words)


def make_app(
    library: Library, files: AudioFiles, access: Access, interleaver: Interleaver | None = None
) -> Guard:
    """The application, guarded; ``interleaver`` as :class:`Explorer` takes it."""
    explorer = Explorer(library, files, interleaver)
    previews = Previews()

    def answers(function: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """A route that returns JSON or raw bytes, run in a thread."""

        async def route(request: Request) -> Response:
            content = await run_in_threadpool(function, request)
            if isinstance(content, bytes):
                return Response(content, media_type="application/octet-stream")
            return JSONResponse(content)

        return route

    async def audio(request: Request) -> Response:
        file, duration_s = await run_in_threadpool(explorer.audio, _row(request))
        if is_playable(file) and "decoded" not in request.query_params:
            return FileResponse(file, media_type=TYPES[file.suffix.lower()])
        return await previews.respond(request, file, duration_s)

    api = {
        "/api/library": lambda r: explorer.about(),
        "/api/map/{name}/{layout}": lambda r: explorer.map(
            r.path_params["name"], r.path_params["layout"]
        ),
        "/api/column/{name}": lambda r: explorer.column(r.path_params["name"]),
        "/api/column/{name}/values": lambda r: explorer.column_values(r.path_params["name"]),
        "/api/where": lambda r: explorer.where(r.query_params.get("where", "")),
        "/api/tracks": lambda r: explorer.tracks(_rows(r)),
        "/api/find": lambda r: explorer.find(r.query_params.get("text", "")[:200]),
        "/api/search": lambda r: explorer.search(*_asked(r)),
        "/api/segments/{row}": lambda r: explorer.segments(_row(r)),
        "/api/m3u": lambda r: explorer.m3u(*_asked(r)),
        "/api/shown": lambda r: explorer.shown(
            _number(r, "row"), r.query_params.get("session", ""), _number(r, "k")
        ),
        "/api/click": lambda r: explorer.click(r.query_params.get("list", ""), _number(r, "rank")),
    }
    routes = [Route(path, _page_file(*page)) for path, page in _page().items()]
    routes += [Route(path, answers(function)) for path, function in api.items()]
    routes.append(Route("/audio/{row}", audio))
    refusals: dict[Any, Any] = {
        _NothingThereError: _says(404, lambda error: "not found"),
        NotServedError: _says(404, lambda error: f"the file {error}"),
        UsageError: _says(400, str),
        StoppedError: _says(503, str),
        InputError: _says(415, lambda error: "the file cannot be decoded"),
    }
    return Guard(Starlette(routes=routes, exception_handlers=refusals), access)


def _page() -> dict[str, tuple[bytes, str]]:
    """URL -> content and type, of the files in ``page/`` and no others."""
    page = {}
    for file in (resources.files("loev_cli.explore") / "page").iterdir():
        extension = file.name[file.name.rfind(".") :]
        if extension in _PAGE_TYPES:
            url = "/" if file.name == "index.html" else f"/{file.name}"
            page[url] = (file.read_bytes(), _PAGE_TYPES[extension])
    return page


def _page_file(content: bytes, media_type: str) -> Callable[[Request], Any]:
    async def route(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return route


def _says(status: int, text: Callable[[Any], str]) -> Callable[[Request, Any], Response]:
    def handler(request: Request, error: Any) -> Response:
        return JSONResponse({"error": text(error)}, status)

    return handler


def _asked(request: Request) -> tuple[int, str, int, str]:
    """Row, weights, k and filter of a search."""
    given = request.query_params
    row, k = _number(request, "row"), _number(request, "k")
    return row, given.get("weights", ""), k, given.get("where", "")


def _row(request: Request) -> int:
    return _whole(str(request.path_params["row"]))


def _rows(request: Request) -> list[int]:
    return [_whole(text) for text in request.query_params.get("rows", "").split(",")[:_MAX_ROWS]]


def _number(request: Request, name: str) -> int:
    return _whole(request.query_params.get(name, ""))


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise _NothingThereError
    return int(text)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        UsageError: no such address on this machine.
        LoevError: the port is in use or not permitted.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UsageError(
            f"--host {host}: no such address", hint="for example --host 127.0.0.1"
        ) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        hint = "choose another port with --port N, or --port 0 for any free one"
        raise LoevError(
            f"cannot listen on {host} port {port}: {error.strerror}", hint=hint
        ) from error
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Whether it is reachable only from this machine."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def address(listener: socket.socket, host: str, token: str | None) -> str:
    """The URL of the page; with the host name if it listens on all addresses."""
    port = listener.getsockname()[1]
    if ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_unspecified:
        host = socket.gethostname()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def make_server(app: Guard) -> uvicorn.Server:
    """The server of the application."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,  # a playing track is an endless response
    )
    return uvicorn.Server(config)


def serve(app: Guard, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, which are re-delivered to the previous handlers."""
    server = make_server(app)
    # Captured before it runs: a signal during start-up would interrupt start-up.
    with server.capture_signals():
        server.run(sockets=[listener])
