"""The run: checked before the work, told while it goes on, bounded in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from loev_cli.audio import DecoderProcess, Source
from loev_cli.backends import Encoder
from loev_cli.bundle import Bundle
from loev_cli.embed import Event, Failure, Request, RunStarted, TrackDone, dry_run, embed
from loev_cli.embed.reader import Reader, TrackEnd, Window
from loev_cli.errors import UsageError
from loev_cli.formats import read
from tests.conftest import RATE_HZ, WINDOW_N, add_bad_files, write_audio
from tests.embed.common import embedded


def test_events_tell_what_happens(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    add_bad_files(library)
    events: list[Event] = []
    request = Request([str(library)], str(tmp_path / "x.npz"), model=str(bundle.path))
    report = embed(request, on_event=events.append)
    assert events[0] == RunStarted(7)
    done = [event for event in events if isinstance(event, TrackDone)]
    assert sorted(event.path for event in done) == read(tmp_path / "x.npz").paths
    total_s = sum(event.duration_s for event in done)  # more exact from Python 3.12 on
    assert total_s == pytest.approx(report.audio_s, rel=1e-12)
    assert report.audio_s == pytest.approx(12.3)
    failed = [event for event in events if isinstance(event, Failure)]
    assert sorted(failed, key=lambda failure: failure.path) == list(report.failures)
    assert report.wall_s > report.stats.wall_s > 0
    assert report.stats.decode_s > 0
    assert report.stats.encode_s > 0
    assert sum(report.stats.shares().values()) == pytest.approx(1)
    assert report.stats.limit in ("decode", "encode", "write")


def test_the_request_is_checked_before_the_work(
    bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **options: object) -> Encoder:
        raise AssertionError("the work has begun")

    monkeypatch.setattr("loev_cli.embed.engine.open_fast", never)
    good = {"inputs": [str(library)], "out": str(tmp_path / "x.npz"), "model": str(bundle.path)}
    for wrong in (
        {"out": None},
        {"out": ""},
        {"out": str(tmp_path / "x.csv")},
        {"out": str(tmp_path / "no" / "x.npz")},
        {"model": "no-such-model"},
        {"subspaces": ["timbre"]},
        {"inputs": ["/no/such"]},
        *({"hop_s": hop_s} for hop_s in (0.0, -1.0, 0.51, 1e-9, float("nan"), float("inf"))),
    ):
        with pytest.raises(UsageError):
            embed(Request(**(good | wrong)))  # type: ignore[arg-type]


def test_an_output_never_takes_the_place_of_an_input(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    """A file named outright is taken whatever its extension, so it may be called like an output."""
    precious = (library / "b" / "same.wav").rename(library / "same.npz")
    (tmp_path / "link.npz").symlink_to(precious)
    content = precious.read_bytes()
    for out in (precious, tmp_path / "link.npz"):
        with pytest.raises(UsageError, match="is one of the inputs"):
            embedded(bundle, out, precious, overwrite=True)
    assert precious.read_bytes() == content


def test_a_batch_beyond_memory_is_one_clear_error(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no memory for batches of 1000000000000 windows"):
        embedded(bundle, tmp_path / "x.npz", library, batch_size=10**12)


def test_the_reader_keeps_a_bounded_number_of_windows(tmp_path: Path) -> None:
    for i in range(3):
        write_audio(tmp_path / f"{i}.wav", 60.0)
    sources = [Source(f"{i}", str(tmp_path / f"{i}.wav")) for i in range(3)]
    reader = Reader(
        sources,
        sample_rate_hz=RATE_HZ,
        window_n_samples=WINDOW_N,
        hop_n_samples=WINDOW_N,
        decoders=[DecoderProcess() for _ in range(3)],
        n_ahead=4,
    )
    with reader:
        items = []
        for item in reader:
            assert reader._queue.qsize() <= 4
            items.append(item)
        assert reader.busy_s > 0
    assert sum(isinstance(item, Window) for item in items) == 3 * 120
    assert sum(isinstance(item, TrackEnd) for item in items) == 3


def test_leaving_the_reader_early_ends_its_threads(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", 60.0)
    reader = Reader(
        [Source("x", str(tmp_path / "x.wav"))] * 8,
        sample_rate_hz=RATE_HZ,
        window_n_samples=WINDOW_N,
        hop_n_samples=WINDOW_N,
        decoders=[DecoderProcess() for _ in range(4)],
        n_ahead=2,
    )
    with reader:
        next(iter(reader))
        assert any(decoder.pid for decoder in reader._decoders)
    assert not any(thread.is_alive() for thread in reader._threads)
    assert not any(decoder.pid for decoder in reader._decoders)


def test_in_order_a_slow_track_holds_the_others_back(tmp_path: Path) -> None:
    """Their rows would wait in memory, however many there are."""
    write_audio(tmp_path / "long.wav", 60.0)
    write_audio(tmp_path / "short.wav", 0.1)
    names = ["long.wav", *["short.wav"] * 50]
    sources = [Source(f"{i}", str(tmp_path / name)) for i, name in enumerate(names)]
    reader = Reader(
        sources,
        sample_rate_hz=RATE_HZ,
        window_n_samples=WINDOW_N,
        hop_n_samples=WINDOW_N,
        decoders=[DecoderProcess() for _ in range(3)],
        n_ahead=4,
        n_tracks_ahead=5,
    )
    ended: set[int] = set()
    with reader:
        for item in reader:
            if isinstance(item, TrackEnd):
                ended.add(item.track)
                n_in_order = next(i for i in range(52) if i not in ended)
                assert max(ended) < n_in_order + 5 + (item.track == 0) * 50
                reader.settled(n_in_order)
    assert len(ended) == 51


def test_dry_run_counts_by_headers(bundle: Bundle, library: Path) -> None:
    add_bad_files(library)
    (library / "gone.wav").symlink_to("/no/such")
    plan = dry_run(Request([str(library)], None, model=str(bundle.path)))
    assert plan.n_files == 8
    assert plan.audio_s == pytest.approx(12.3)
    assert {failure.path for failure in plan.unreadable} == {"bad.mp3", "empty.wav", "gone.wav"}
    assert plan.n_vectors == 5
    assert plan.out_n_bytes == 5 * 13 * 4
    assert plan.run_s is not None
    windows = dry_run(Request([str(library)], None, model=str(bundle.path), per_window=True))
    assert windows.n_vectors > 5
