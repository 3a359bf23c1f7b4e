"""Inputs and outputs that lie elsewhere, over real HTTP: moto's S3, and a web server."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import io
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from loev_cli.audio import find
from loev_cli.bundle import Bundle
from loev_cli.embed import Request, embed
from loev_cli.errors import MissingExtraError, OutputError, UsageError
from loev_cli.formats import check_output, read
from loev_cli.storage import remote
from tests.conftest import Loev, add_bad_files
from tests.embed.common import assert_same, embedded

needs_s3 = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("moto", "flask", "s3fs")),
    reason="moto[server] and s3fs are not installed",
)
needs_http = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None, reason="fsspec[http] is not installed"
)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """moto's S3 server in a process of its own; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    server = subprocess.Popen([sys.executable, "-c", serve], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(url, timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def bucket(
    s3_server: str, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """An S3 bucket with the library under ``music/``; credentials and cache of its own."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    system = fsspec.filesystem("s3")
    system.mkdir("bucket")
    system.put(str(library), "bucket/music", recursive=True)
    system.pipe("bucket/music/.hidden.wav", b"x")
    system.pipe("bucket/music/cover.jpg", b"x")
    yield "s3://bucket"
    system.rm("bucket", recursive=True)


def request(bundle: Bundle, out: str, *inputs: str, **options: object) -> Request:
    return Request(list(inputs), out, model=str(bundle.path), **options)  # type: ignore[arg-type]


def fetch(url: str, to: Path) -> Path:
    remote.download(url, to)
    return to


# ---------------------------------------------------------------- s3


@needs_s3
def test_a_bucket_is_searched_like_a_folder(bucket: str, library: Path) -> None:
    local = sorted(find([str(library)]), key=lambda source: source.path)
    there = find([f"{bucket}/music"])
    assert [source.path for source in there] == [source.path for source in local]
    assert [source.remote.size for source in there if source.remote] == [
        source.file.stat().st_size for source in local
    ]
    assert all(source.remote and source.remote.version for source in there)
    one = f"{bucket}/music/a/same.wav"
    assert [source.path for source in find([one])] == [one]
    both = find([f"{bucket}/music/a/", f"{bucket}/music/b"])
    assert [source.path for source in both] == [one, f"{bucket}/music/b/same.wav"]
    listed = io.BytesIO(f"{one}\n{bucket}/gone.wav\n".encode())
    assert [source.path for source in find(["-"], stdin=listed)] == [one, f"{bucket}/gone.wav"]
    with pytest.raises(UsageError, match="no such file or folder: s3://bucket/nothing"):
        find([f"{bucket}/nothing"])


@needs_s3
def test_files_in_a_bucket_give_the_same_rows(
    bucket: str, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    reference, _ = embedded(bundle, tmp_path / "reference.npz", library)
    out = tmp_path / "x.npz"
    report = embed(request(bundle, str(out), f"{bucket}/music", workers=3))
    assert (report.n_done, report.failures) == (5, ())
    assert_same(read(out), reference)
    again = embed(request(bundle, str(out), f"{bucket}/music"))
    assert (again.n_done, again.n_rows) == (0, 5)
    fsspec.filesystem("s3").rm("bucket/music/short.WAV")
    time.sleep(1.1)  # what S3 tells of times is whole seconds
    fsspec.filesystem("s3").put(str(library / "b/same.wav"), "bucket/music/a/same.wav")
    changed = embed(request(bundle, str(out), f"{bucket}/music", prune=True))
    assert (changed.n_done, changed.n_pruned, changed.n_rows) == (1, 1, 4)


@needs_s3
def test_bad_files_in_a_bucket_are_named_by_their_url(
    bucket: str, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    add_bad_files(library)
    system = fsspec.filesystem("s3")
    for name in ("bad.mp3", "empty.wav"):
        system.put(str(library / name), f"bucket/music/{name}")
    listed = b"s3://bucket/music/gone.wav\ns3://bucket/music/a/same.wav\n"
    report = embed(
        request(bundle, str(tmp_path / "x.npz"), f"{bucket}/music", "-"), stdin=io.BytesIO(listed)
    )
    messages = {failure.path: failure.message for failure in report.failures}
    assert set(messages) == {f"{bucket}/music/{n}" for n in ("bad.mp3", "empty.wav", "gone.wav")}
    assert all(message.startswith(path) for path, message in messages.items())
    assert {failure.stage for failure in report.failures} == {"open"}
    assert report.n_done == 5


@needs_s3
@pytest.mark.parametrize("extension", [".npz", ".parquet", ".jsonl"])
def test_an_output_in_a_bucket(
    bucket: str, bundle: Bundle, library: Path, tmp_path: Path, extension: str, loev: Loev
) -> None:
    reference, _ = embedded(bundle, tmp_path / "reference.npz", library)
    add_bad_files(library)
    out = f"{bucket}/out/emb{extension}"
    command = ["embed", library, "--out", out, "--model", bundle.path]
    assert loev(*command).code == 3
    system = fsspec.filesystem("s3")
    assert system.find("bucket/out") == [
        f"bucket/out/emb{extension}",
        f"bucket/out/emb{extension}.failures.jsonl",
    ]
    assert_same(read(fetch(out, tmp_path / f"x{extension}")), reference)
    (library / "bad.mp3").unlink()
    (library / "empty.wav").unlink()
    assert loev(*command).code == 0
    assert system.find("bucket/out") == [f"bucket/out/emb{extension}"]


@needs_s3
def test_an_output_in_a_bucket_is_brought_up_to_date(
    bucket: str, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    out = f"{bucket}/emb.parquet"
    (library / "short.WAV").rename(tmp_path / "later.WAV")
    assert embed(request(bundle, out, str(library))).n_done == 4
    first = remote.describe(out)
    time.sleep(1.1)
    assert embed(request(bundle, out, str(library))).n_done == 0
    assert remote.describe(out) == first, "what has not changed is not written again"
    (tmp_path / "later.WAV").rename(library / "short.WAV")
    assert embed(request(bundle, out, str(library))).n_done == 1
    assert len(read(fetch(out, tmp_path / "x.parquet")).paths) == 5
    fsspec.filesystem("s3").rm("bucket/emb.parquet")
    assert embed(request(bundle, out, str(library))).n_done == 5, "it was removed: all anew"
    (tmp_path / "mine.txt").write_text("somebody else's")
    remote.upload(tmp_path / "mine.txt", out)
    with pytest.raises(UsageError, match="will not replace"):
        embed(request(bundle, out, str(library)))
    assert embed(request(bundle, out, str(library), overwrite=True)).n_rows == 5


@needs_s3
def test_a_bucket_that_cannot_be_written_is_told_before_the_work(
    bucket: str, bundle: Bundle, library: Path
) -> None:
    with pytest.raises(OutputError, match="cannot write s3://no-such-bucket"):
        embed(request(bundle, "s3://no-such-bucket/x.npz", str(library)))
    with pytest.raises(UsageError, match="is a folder"):
        check_output(f"{bucket}/x.lance")
    with pytest.raises(UsageError, match="not a supported embedding format"):
        check_output(f"{bucket}/x.csv")


# ---------------------------------------------------------------- https, and no driver


@pytest.fixture
def web(library: Path) -> Iterator[str]:
    """A web server with pages that list the library."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(library))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@needs_http
def test_files_on_a_web_server(web: str, bundle: Bundle, library: Path, tmp_path: Path) -> None:
    assert {source.path for source in find([f"{web}/"])} == {
        source.path for source in find([str(library)])
    }
    reference, _ = embedded(bundle, tmp_path / "reference.npz", library)
    report = embed(request(bundle, str(tmp_path / "x.npz"), f"{web}/"))
    assert (report.n_done, report.failures) == (5, ())
    assert_same(read(tmp_path / "x.npz"), reference)
    one = embed(request(bundle, str(tmp_path / "one.npz"), f"{web}/a/same.wav"))
    assert one.n_done == 1
    with pytest.raises(remote.RemoteError, match=r"gone\.wav: no such file"):
        find([f"{web}/gone.wav"])


def test_a_protocol_nobody_knows() -> None:
    with pytest.raises(UsageError, match="zzz"):
        find(["zzz://x/y"])


def test_without_fsspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'loev-cli\[remote\]'"):
        find(["s3://bucket/music"])


def test_without_a_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'loev-cli\[remote\]'"):
        find(["s3://bucket/music"])


def test_cache_of_outputs_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from loev_cli.embed.staging import _local_of

    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", "/somewhere")
    assert str(_local_of("s3://b/x.npz")).startswith("/somewhere/loev/outputs/")
