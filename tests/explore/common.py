"""A library with awkward names and real audio, served on a port of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvicorn
from numpy.typing import NDArray

from loev_cli.ab.interleave import Interleaver
from loev_cli.explore import Access, AudioFiles, listen, make_app
from loev_cli.explore.server import make_server
from loev_cli.formats import Row, open_writer
from loev_cli.search.library import Library, open_library
from tests.conftest import write_audio
from tests.search.common import DIMS, meta

DURATION_S = 1.0
SECRET = "the secret of the outer folder"
HOSTILE = "<img src=x onerror=alert(1)>.wav"
PLAIN = [f"plain/{i:02}.wav" for i in range(20)]
SERVED = [*PLAIN, HOSTILE, "ü é/日本 🎵.flac", "old.aiff", "inner-link.wav"]
NOT_SERVED = [
    "../outside.wav",
    "gone.wav",
    "notes.txt",
    "out-link.wav",
    "out-folder/outside.wav",
    "folder.wav",
    "https://example.org/x.wav",
    "nul\0.wav",
]
BYTES = "caf\\xe9.wav"  # as `loev embed` spells a name that is no UTF-8


def write_embedding(out: Path, paths: list[str], **columns: NDArray[np.generic]) -> None:
    """An embedding file of tracks with these paths, random vectors, and more columns."""
    rng = np.random.default_rng(0)
    order = sorted(range(len(paths)), key=paths.__getitem__)
    with open_writer(str(out), meta(tags=["title"])) as writer:
        for i in order:
            vectors = {n: rng.standard_normal(d).astype(np.float32) for n, d in DIMS.items()}
            tags = {"title": "<b>bold</b>"} if paths[i] == HOSTILE else {}
            writer.add(Row(paths[i], DURATION_S, False, vectors, None, tags))
        writer.commit()
    with np.load(out) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(out, **arrays, **{name: values[order] for name, values in columns.items()})


@dataclass(frozen=True)
class Place:
    """A library on disk."""

    emb: Path
    music: Path
    outside: Path

    def row(self, path: str) -> int:
        return open_library(self.emb).paths.index(path)


def make_place(folder: Path) -> Place:
    """Audio that may be served, beside files that may not, and an embedding file of both."""
    music = folder / "music"
    for i, name in enumerate([*PLAIN, HOSTILE, "ü é/日本 🎵.flac"]):
        write_audio(music / name, DURATION_S, seed=i, subtype="PCM_16")
    write_audio(music / "old.aiff", DURATION_S, seed=50, subtype="PCM_16")
    outside = write_audio(folder / "outside.wav", DURATION_S, seed=51, subtype="PCM_16")
    (folder / "outside.txt").write_text(SECRET)
    (music / "notes.txt").write_text(SECRET)
    (music / "inner-link.wav").symlink_to(music / PLAIN[0])
    (music / "out-link.wav").symlink_to(outside)
    (music / "out-folder").symlink_to(folder, target_is_directory=True)
    (music / "folder.wav").mkdir()
    paths = [*SERVED, *NOT_SERVED, str(outside), str(music.resolve() / PLAIN[1])]
    with contextlib.suppress(OSError):  # not every file system takes it
        write_audio(music / "x.wav", DURATION_S, seed=52, subtype="PCM_16")
        os.rename(music / "x.wav", os.fsencode(music) + b"/caf\xe9.wav")  # noqa: PTH104
        paths.append(BYTES)
    rng = np.random.default_rng(1)
    keys = ["C major", "A minor", "F# minor", "Eb major"]
    write_embedding(
        folder / "emb.npz",
        paths,
        bpm=rng.uniform(60, 180, len(paths)).astype(np.float32),
        key=np.array([keys[i % 4] for i in range(len(paths))]),
    )
    return Place(folder / "emb.npz", music, outside)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Site:
    """A page that is served."""

    port: int
    server: uvicorn.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def get(self, path: str, headers: Mapping[str, str] = {}, method: str = "GET") -> Answer:
        """One request, its path sent as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, headers=dict(headers))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()


@contextlib.contextmanager
def served(
    place: Place,
    access: Access | None = None,
    interleaver: Interleaver | None = None,
    library: Library | None = None,
) -> Iterator[Site]:
    """The library, by default that of the file, served by a thread over HTTP."""
    library = library or open_library(place.emb)
    files = AudioFiles(place.music, library.paths)
    app = make_app(library, files, access or Access(), interleaver)
    with listen("127.0.0.1", 0) as listener:
        server = make_server(app)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Site(listener.getsockname()[1], server)
        finally:
            server.should_exit = True
            thread.join()
