"""The runner: what a track's row depends on, and above all what it does not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loev_cli.audio import Source, load
from loev_cli.backends import Encoder, open_encoder
from loev_cli.bundle import Bundle
from loev_cli.embed import Event, Failure, Report, Request, RunStarted, TrackDone, dry_run, embed
from loev_cli.embed.reader import Reader, TrackEnd, Window
from loev_cli.errors import InputError, LoevError, UsageError
from loev_cli.windows import cut
from loev_cli.writers import EmbeddingFile, read
from tests.conftest import RATE_HZ, WINDOW_N, add_bad_files, music, write_audio

TOLERANCE = 1e-5


def embedded(
    bundle: Bundle, out: Path, *inputs: Path, **options: object
) -> tuple[EmbeddingFile, Report]:
    request = Request([str(i) for i in inputs], str(out), model=str(bundle.path), **options)  # type: ignore[arg-type]
    report = embed(request)
    return read(out), report


def assert_same(a: EmbeddingFile, b: EmbeddingFile) -> None:
    assert a.paths == b.paths
    for name in a.vectors:
        np.testing.assert_allclose(a.vectors[name], b.vectors[name], atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(a.duration_s, b.duration_s)
    np.testing.assert_array_equal(a.silent, b.silent)


def row(file: EmbeddingFile, path: str) -> dict[str, np.ndarray]:
    return {name: vectors[file.paths.index(path)] for name, vectors in file.vectors.items()}


# ---------------------------------------------------------------- the numbers


def test_a_row_is_the_mean_of_its_windows(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    file, report = embedded(bundle, tmp_path / "x.npz", library)
    assert file.paths == sorted(file.paths)
    assert len(file.paths) == report.n_done == 5
    encoder = open_encoder(bundle, device="cpu")
    for i, path in enumerate(file.paths):
        waveform = load(library / path, RATE_HZ)
        windows = np.stack([c.samples for c in cut(waveform, WINDOW_N, WINDOW_N // 2)])
        for name, vectors in encoder.encode(windows).items():
            mean = vectors.mean(axis=0, dtype=np.float64)
            np.testing.assert_allclose(file.vectors[name][i], mean, atol=1e-6)
        assert file.duration_s[i] == pytest.approx(len(waveform) / RATE_HZ)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("workers", [1, 4])
def test_batch_and_workers_change_nothing(
    bundle: Bundle, library: Path, tmp_path: Path, batch_size: int, workers: int
) -> None:
    reference, _ = embedded(bundle, tmp_path / "reference.npz", library)
    file, _ = embedded(bundle, tmp_path / "x.npz", library, batch_size=batch_size, workers=workers)
    assert_same(file, reference)


def test_neighbours_change_nothing(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    together, _ = embedded(bundle, tmp_path / "all.npz", library)
    for path in together.paths:
        alone, _ = embedded(bundle, tmp_path / "one.npz", library / path, overwrite=True)
        for name, vector in row(alone, str(library / path)).items():
            np.testing.assert_allclose(vector, row(together, path)[name], atol=TOLERANCE)


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 44100])
def test_mono_equals_dual_mono(bundle: Bundle, tmp_path: Path, rate_hz: int) -> None:
    mono = music(3.3, rate_hz=rate_hz)
    soundfile.write(tmp_path / "mono.wav", mono, rate_hz)
    soundfile.write(tmp_path / "dual.wav", np.stack([mono, mono], 1), rate_hz)
    file, _ = embedded(bundle, tmp_path / "x.npz", tmp_path)
    for vectors in file.vectors.values():
        np.testing.assert_allclose(vectors[0], vectors[1], atol=TOLERANCE, rtol=0)


def test_the_tail_is_not_dropped(bundle: Bundle, tmp_path: Path) -> None:
    seconds = 1.37  # no whole number of hops
    quiet = 0.01 * music(seconds)
    click = quiet.copy()
    click[-RATE_HZ // 100 :] += 0.9 * np.random.default_rng(0).choice([-1, 1], 80)  # 10 ms
    for name, samples in {"click": click, "quiet": quiet}.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE_HZ, "FLOAT")
    file, _ = embedded(bundle, tmp_path / "x.npz", tmp_path)
    for vectors in file.vectors.values():
        assert np.abs(vectors[0] - vectors[1]).max() > np.abs(vectors[1]).max()


def test_a_file_shorter_than_a_window_is_embedded(bundle: Bundle, tmp_path: Path) -> None:
    short = music(0.1)
    soundfile.write(tmp_path / "short.wav", short, RATE_HZ, "FLOAT")
    soundfile.write(tmp_path / "repeated.wav", np.tile(short, 5), RATE_HZ, "FLOAT")
    soundfile.write(tmp_path / "one sample.wav", np.ones(1) / 2, RATE_HZ, "FLOAT")
    file, _ = embedded(bundle, tmp_path / "x.npz", tmp_path)
    assert len(file.paths) == 3
    for name, vector in row(file, "short.wav").items():
        np.testing.assert_allclose(vector, row(file, "repeated.wav")[name], atol=TOLERANCE)
    assert file.duration_s[file.paths.index("short.wav")] == pytest.approx(0.1)
    assert all(np.isfinite(v).all() for v in file.vectors.values())


def test_silence_is_embedded_and_flagged(bundle: Bundle, tmp_path: Path) -> None:
    levels_db = {"digital": -np.inf, "below": -60.5, "above": -59.5, "late": -80.0}
    for name, level_db in levels_db.items():
        samples = np.full(RATE_HZ * 6, 10 ** (level_db / 20))
        if name == "late":
            samples[-1] = 0.1
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE_HZ, "FLOAT")
    opposite = np.stack([music(1.0), -music(1.0)], 1)
    soundfile.write(tmp_path / "opposite.wav", opposite, RATE_HZ, "FLOAT")
    file, report = embedded(bundle, tmp_path / "x.npz", tmp_path)
    assert not report.failures
    silent = dict(zip(file.paths, file.silent.tolist(), strict=True))
    assert silent == {
        "digital.wav": True,
        "below.wav": True,
        "above.wav": False,
        "late.wav": False,
        "opposite.wav": True,  # the mono mix is
    }
    assert all(np.isfinite(v).all() for v in file.vectors.values())


@pytest.mark.parametrize("extension", [".npz", ".parquet", ".jsonl"])
def test_windows_average_to_the_track(
    bundle: Bundle, library: Path, tmp_path: Path, extension: str
) -> None:
    pooled, _ = embedded(bundle, tmp_path / "p.npz", library)
    file, _ = embedded(bundle, tmp_path / f"w{extension}", library, per_window=True)
    assert file.paths == pooled.paths
    assert file.track is not None
    assert file.start_s is not None
    for name, vectors in file.vectors.items():
        for i in range(len(file.paths)):
            mean = vectors[file.track == i].mean(axis=0)
            np.testing.assert_allclose(mean, pooled.vectors[name][i], atol=TOLERANCE)
    longest = file.paths.index("long one.flac")
    starts = file.start_s[file.track == longest]
    assert starts[0] == 0
    assert starts[1] == 0.25  # half a window
    assert starts[-1] == pytest.approx(5.7 - 0.5)  # aligned with the end
    assert (np.diff(starts) > 0).all()


def test_the_hop_is_kept_in_meta(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    file, _ = embedded(bundle, tmp_path / "x.npz", library, hop_s=0.1, per_window=True)
    assert file.meta["hop_s"] == 0.1
    assert file.meta["window_s"] == 0.5
    assert file.start_s is not None
    assert file.start_s[1] == np.float32(0.1)


def test_subspaces_can_be_chosen(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    everything, _ = embedded(bundle, tmp_path / "all.npz", library)
    file, _ = embedded(bundle, tmp_path / "x.npz", library, subspaces=["tempo", "invariant"])
    assert list(file.vectors) == ["invariant", "tempo"]
    np.testing.assert_allclose(file.vectors["tempo"], everything.vectors["tempo"], atol=TOLERANCE)


# ---------------------------------------------------------------- failures


def test_bad_files_hurt_nobody(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    good, _ = embedded(bundle, tmp_path / "good.npz", library)
    add_bad_files(library)
    samples = music(4.0)
    samples[-10] = np.nan  # found after windows of it have been encoded
    soundfile.write(library / "a" / "nan.wav", samples, RATE_HZ, "FLOAT")
    file, report = embedded(bundle, tmp_path / "x.npz", library)
    assert_same(file, good)
    assert [failure.path for failure in report.failures] == ["a/nan.wav", "bad.mp3", "empty.wav"]
    listed = (tmp_path / "x.npz.failures.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in listed]
    assert [set(record) for record in records] == [{"path", "stage", "error", "message"}] * 3
    assert [record["stage"] for record in records] == ["decode", "open", "open"]


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_bad_file_whose_name_is_no_utf8_is_listed(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    Path(os.fsdecode(os.fsencode(library) + b"/caf\xe9.mp3")).write_text("no music")
    _, report = embedded(bundle, tmp_path / "x.npz", library)
    (record,) = map(json.loads, (tmp_path / "x.npz.failures.jsonl").read_text().splitlines())
    assert record["path"] == report.failures[0].path == "caf\\xe9.mp3"
    assert record["message"].startswith(f"{library}/caf\\xe9.mp3: ")


def test_the_list_of_failures_goes_when_there_are_none(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    add_bad_files(library)
    out = tmp_path / "x.npz"
    embedded(bundle, out, library)
    for bad in ("bad.mp3", "empty.wav"):
        (library / bad).unlink()
    embedded(bundle, out, library)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["x.npz"]


def test_with_nothing_usable_nothing_is_written(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    add_bad_files(tmp_path / "in")
    out = tmp_path / "x.npz"
    report = embed(Request([str(tmp_path / "in")], str(out), model=str(bundle.path)))
    assert (report.n_done, len(report.failures)) == (0, 2)
    assert not out.exists()
    with pytest.raises(LoevError, match="no audio files in"):
        embed(Request([str(bundle.path)], str(out), model=str(bundle.path)))


def test_strict_stops_at_the_first(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    add_bad_files(library)
    with pytest.raises(InputError, match=r"bad\.mp3"):
        embedded(bundle, tmp_path / "x.npz", library, strict=True)
    assert [p.name for p in tmp_path.iterdir()] == ["library"]


def test_whatever_a_decoder_raises_is_its_files_failure(
    bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, _ = embedded(bundle, tmp_path / "good.npz", library)

    class Exploding:
        def __init__(self, file: Path, rate_hz: int) -> None:
            raise ZeroDivisionError("deep inside\na codec")

    from loev_cli.embed import reader

    real = reader.decode
    monkeypatch.setattr(
        reader, "decode", lambda f, r: (Exploding if f.name == "x.mp3" else real)(f, r)
    )
    (library / "x.mp3").touch()
    file, report = embedded(bundle, tmp_path / "x.npz", library)
    assert_same(file, good)
    (failure,) = report.failures
    assert (failure.path, failure.stage, failure.error) == ("x.mp3", "decode", "ZeroDivisionError")
    assert "\n" not in failure.message


def test_a_track_with_non_finite_vectors_fails_alone(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    samples = np.full(RATE_HZ, 3e38, np.float32)  # finite, but not after a filter
    soundfile.write(library / "huge.wav", samples, RATE_HZ, "FLOAT")
    file, report = embedded(bundle, tmp_path / "x.npz", library)
    assert len(file.paths) == 5
    assert [(f.path, f.stage) for f in report.failures] == [("huge.wav", "encode")]


# ---------------------------------------------------------------- the run


def test_events_tell_what_happens(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    add_bad_files(library)
    events: list[Event] = []
    request = Request([str(library)], str(tmp_path / "x.npz"), model=str(bundle.path))
    report = embed(request, on_event=events.append)
    assert events[0] == RunStarted(7)
    done = [event for event in events if isinstance(event, TrackDone)]
    assert [event.path for event in done] == read(tmp_path / "x.npz").paths
    assert sum(event.duration_s for event in done) == report.audio_s == pytest.approx(12.3)
    assert tuple(event for event in events if isinstance(event, Failure)) == report.failures
    assert report.wall_s > 0


def test_the_request_is_checked_before_the_work(
    bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **options: object) -> Encoder:
        raise AssertionError("the work has begun")

    monkeypatch.setattr("loev_cli.embed.job.open_encoder", never)
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


def test_its_like_is_replaced_and_nothing_else(
    bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.npz"
    embedded(bundle, out, library)
    file, _ = embedded(bundle, out, library / "a")
    assert file.paths == ["same.wav"]
    with pytest.raises(UsageError, match=r"do not agree on hop_s.*--overwrite"):
        embedded(bundle, out, library, hop_s=0.1)
    file, _ = embedded(bundle, out, library, hop_s=0.1, overwrite=True)
    assert len(file.paths) == 5


def test_the_reader_keeps_a_bounded_number_of_windows(tmp_path: Path) -> None:
    for i in range(3):
        write_audio(tmp_path / f"{i}.wav", 60.0)
    sources = [Source(f"{i}", tmp_path / f"{i}.wav") for i in range(3)]
    reader = Reader(
        sources,
        sample_rate_hz=RATE_HZ,
        window_n_samples=WINDOW_N,
        hop_n_samples=WINDOW_N,
        n_workers=3,
        n_ahead=4,
    )
    with reader:
        items = []
        for item in reader:
            assert reader._queue.qsize() <= 4
            items.append(item)
    assert sum(isinstance(item, Window) for item in items) == 3 * 120
    assert sum(isinstance(item, TrackEnd) for item in items) == 3


def test_leaving_the_reader_early_ends_its_threads(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", 60.0)
    reader = Reader(
        [Source("x", tmp_path / "x.wav")] * 8,
        sample_rate_hz=RATE_HZ,
        window_n_samples=WINDOW_N,
        hop_n_samples=WINDOW_N,
        n_workers=4,
        n_ahead=2,
    )
    with reader:
        next(iter(reader))
    assert not any(thread.is_alive() for thread in reader._threads)


def test_dry_run_counts_by_headers(bundle: Bundle, library: Path) -> None:
    add_bad_files(library)
    (library / "gone.wav").symlink_to("/no/such")
    plan = dry_run(Request([str(library)], None, model=str(bundle.path)))
    assert plan.n_files == 8
    assert plan.audio_s == pytest.approx(12.3)
    assert {failure.path for failure in plan.unreadable} == {"bad.mp3", "empty.wav", "gone.wav"}
    assert plan.n_vectors == 5
    assert plan.out_n_bytes == 5 * 13 * 4
    windows = dry_run(Request([str(library)], None, model=str(bundle.path), per_window=True))
    assert windows.n_vectors > 5
