"""The Python interface: its numbers are those of the command, and its errors say what is wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import loev_cli as loev
from loev_cli import audio, errors
from loev_cli.annotations import COLUMNS
from loev_cli.bundle import Bundle
from loev_cli.embed import Request, embed
from loev_cli.errors import InputError, LoevError, OutputError, UsageError
from loev_cli.formats import EmbeddingFile, read
from tests.conftest import RATE_HZ, ROOT, SUBSPACES, WINDOW_N, environment, music, write_audio

MUSIC = ROOT / "examples" / "music"
# Of each container once; what libsndfile reads is the same as an array.
FILES = [
    "arcade-in-a-minor-150bpm.wav",
    "bossa-in-f-major-124bpm.flac",
    "waltz-in-d-major-150bpm.mp3",
]
HOP_S = 2.5


@pytest.fixture(scope="module")
def model() -> loev.Model:
    return loev.load()


@pytest.fixture(scope="module")
def tiny(bundle: Bundle) -> loev.Model:
    return loev.load(bundle.path)


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingFile:
    """The examples by the command's own job, with its answers."""
    out = tmp_path_factory.mktemp("tracks") / "emb.npz"
    embed(Request([str(MUSIC)], str(out), annotate=True))
    return read(out)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingFile:
    """Every window, at a hop of its own."""
    out = tmp_path_factory.mktemp("windows") / "emb.npz"
    files = [str(MUSIC / name) for name in FILES]
    embed(Request(files, str(out), per_window=True, hop_s=HOP_S))
    return read(out)


def samples_of(name: str) -> tuple[NDArray[np.float32], int]:
    """(channels, n) of an example, at its own rate."""
    if name.endswith(".mp3"):  # of which loev drops the encoder's padding
        rate_hz = audio.probe(MUSIC / name).sample_rate_hz
        return audio.load(MUSIC / name, rate_hz)[None], rate_hz
    frames, rate_hz = soundfile.read(MUSIC / name, dtype="float32", always_2d=True)
    return frames.T, rate_hz


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, x in expected.items():
        assert found[name].dtype == np.float32 and found[name].shape == x.shape
        np.testing.assert_allclose(found[name], x, atol=1e-6)


# ---------------------------------------------------------------- the command's numbers


@pytest.mark.parametrize("name", FILES)
def test_a_track_has_the_numbers_of_the_command(
    model: loev.Model, tracks: EmbeddingFile, name: str
) -> None:
    row = [Path(path).name for path in tracks.paths].index(name)
    expected = {subspace: x[row] for subspace, x in tracks.vectors.items()}
    assert model.subspaces == {subspace: x.shape[0] for subspace, x in expected.items()}
    assert_same(model(*samples_of(name)), expected)
    assert_same(model.embed_file(MUSIC / name), expected)


@pytest.mark.parametrize("name", FILES)
def test_windows_have_the_numbers_of_the_command(
    model: loev.Model, windows: EmbeddingFile, name: str
) -> None:
    assert windows.track is not None and windows.start_s is not None
    track = [Path(path).name for path in windows.paths].index(name)
    rows = windows.track == track
    expected = {subspace: x[rows] for subspace, x in windows.vectors.items()}
    for vectors, start_s in (
        model(*samples_of(name), per_window=True, hop_s=HOP_S),
        model.embed_file(MUSIC / name, per_window=True, hop_s=HOP_S),
    ):
        assert_same(vectors, expected)
        np.testing.assert_array_equal(start_s, windows.start_s[rows])


def test_answers_are_those_of_the_command(model: loev.Model, tracks: EmbeddingFile) -> None:
    row = [Path(path).name for path in tracks.paths].index(FILES[0])
    answer = model.annotate(*samples_of(FILES[0]))
    assert list(answer) == list(COLUMNS)
    for name, value in answer.items():
        expected = tracks.annotations[name][row]
        assert value == (expected if isinstance(value, str) else pytest.approx(expected, rel=1e-5))
    assert answer["key"] == "A minor" and answer["bpm"] == pytest.approx(150, rel=0.04)


def test_tempi_are_folded_into_a_range(model: loev.Model, tmp_path: Path) -> None:
    """As in a file; a model that was opened without `tempo` still annotates."""
    samples = samples_of(FILES[0])  # 150 BPM
    folded = model.annotate(*samples, bpm_range=(60, 120))
    assert folded["bpm"] == pytest.approx(75, rel=0.04)
    assert loev.load(subspaces=["pitch"]).annotate(*samples, bpm_range=(60, 120)) == folded
    out = tmp_path / "x.npz"
    loev.embed(MUSIC / FILES[0], out, annotate=True, bpm_range=(60, 120))
    assert loev.read(out).annotations["bpm"][0] == pytest.approx(folded["bpm"], rel=1e-5)
    with pytest.raises(UsageError, match="invalid BPM range '80-100'"):
        model.annotate(*samples, bpm_range=(80, 100))
    with pytest.raises(UsageError, match="annotate"):
        loev.embed(MUSIC, tmp_path / "y.npz", bpm_range=(60, 120))


def test_silence_has_vectors_and_no_answer(model: loev.Model) -> None:
    silence = np.zeros(44100, np.float32)
    assert all(np.isfinite(x).all() for x in model(silence, 44100).values())
    answer = model.annotate(silence, 44100)
    assert answer["key"] == "" and np.isnan(answer["bpm"])  # type: ignore[call-overload]


def test_a_batch_is_what_each_gives_alone(tiny: loev.Model) -> None:
    rates = [8000, 44100, 8000, 11025, 48000]
    waves = [music(1.3 * i + 0.1, rate_hz=rate, seed=i) for i, rate in enumerate(rates)]
    together = tiny.embed_batch(waves, rates)
    for wave, rate_hz, vectors in zip(waves, rates, together, strict=True):
        assert_same(vectors, tiny(wave, rate_hz))
    by_window = tiny.embed_batch(iter(waves), rates, per_window=True, hop_s=0.1)
    for wave, rate_hz, (vectors, start_s) in zip(waves, rates, by_window, strict=True):
        alone, starts = tiny(wave, rate_hz, per_window=True, hop_s=0.1)
        assert_same(vectors, alone)
        np.testing.assert_array_equal(start_s, starts)
    assert tiny.embed_batch([], 8000) == []


def test_shapes_types_and_lengths_do_not_matter(tiny: loev.Model) -> None:
    wave = music(1.7)
    expected = tiny(wave, RATE_HZ)
    assert {name: x.shape for name, x in expected.items()} == {
        n: (d,) for n, d in SUBSPACES.items()
    }
    for same in (wave[None], np.stack([wave, wave]), wave.astype(np.float64), wave.tolist()):
        assert_same(tiny(same, RATE_HZ), expected)
    reversed_view = np.ascontiguousarray(wave[::-1])[::-1]
    assert_same(tiny(reversed_view, float(RATE_HZ)), expected)
    assert_same(tiny(wave[:1], RATE_HZ), tiny(np.repeat(wave[:1], WINDOW_N), RATE_HZ))
    vectors, start_s = tiny(wave[: WINDOW_N // 3], RATE_HZ, per_window=True)
    assert start_s.tolist() == [0] and {len(x) for x in vectors.values()} == {1}


def test_speed_is_that_of_a_tape(tiny: loev.Model, tmp_path: Path) -> None:
    wave = music(3.0)
    soundfile.write(tmp_path / "x.wav", wave, RATE_HZ, subtype="FLOAT")
    assert_same(tiny.embed_file(tmp_path / "x.wav", speed=1.25), tiny(wave, 1.25 * RATE_HZ))


def test_a_model_may_be_called_from_threads(tiny: loev.Model) -> None:
    wave = music(4.0)
    expected = tiny(wave, RATE_HZ)
    found: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: found.append(tiny(wave, RATE_HZ))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for vectors in found:
        assert_same(vectors, expected)


def test_the_torch_backend_gives_the_same() -> None:
    pytest.importorskip("torch")
    wave = music(12.0, rate_hz=16000)
    by_torch = loev.load(backend="torch", device="cpu", precision="fp32", subspaces=["tempo"])
    assert by_torch.subspaces == {"tempo": 256}
    expected = loev.load(subspaces=["tempo"])(wave, 16000)["tempo"]
    np.testing.assert_allclose(by_torch(wave, 16000)["tempo"], expected, atol=1e-4)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("wave", "names"),
    [
        ([], "(0,)"),
        (np.zeros((2, 0), np.float32), "(2, 0)"),
        (np.zeros((1, 2, 3), np.float32), "(1, 2, 3)"),
        (np.float32(0.5), "()"),
        (np.zeros((4000, 2), np.float32), "(4000, 2)"),
        (np.zeros(4000, np.int16), "32768"),
        (np.zeros(4000, np.complex64), "complex64"),
        (np.array(["a"]), "<U1"),
        (np.array([0.1, np.nan] * 4000, np.float32), "NaN"),
        (np.array([0.1, -np.inf] * 4000), "infinite"),
        (np.full(4000, 1e300), "infinite"),
        ([np.zeros(10, np.float32), np.zeros(10, np.float32)], "embed_batch"),
        ([[0.1, 0.2], [0.3]], "embed_batch"),
        (None, "()"),
    ],
)
def test_what_is_no_waveform_is_told_of(tiny: loev.Model, wave: Any, names: str) -> None:
    with pytest.raises(UsageError) as caught:
        tiny(wave, RATE_HZ)
    assert names in str(caught.value) and "the waveform" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_same(tiny(music(0.6), RATE_HZ), tiny(music(0.6), RATE_HZ))  # usable after an error


@pytest.mark.parametrize("rate", [0, -44100, float("nan"), float("inf"), "44.1k", None, 10, 1e9])
def test_impossible_rates_are_told_of(tiny: loev.Model, rate: Any) -> None:
    with pytest.raises(UsageError) as caught:
        tiny(music(1.0), rate)
    assert repr(rate) in str(caught.value)


@pytest.mark.parametrize("hop_s", [0, -1, float("nan"), 0.6, 1e-9])
def test_impossible_hops_are_told_of(tiny: loev.Model, hop_s: float) -> None:
    with pytest.raises(UsageError, match=f"{hop_s:g}"):
        tiny(music(1.0), RATE_HZ, hop_s=hop_s)


def test_an_error_in_a_batch_names_the_waveform(tiny: loev.Model) -> None:
    waves = [music(1.0), music(1.0), np.full(100, np.nan), music(1.0)]
    with pytest.raises(UsageError, match="waveform 2"):
        tiny.embed_batch(waves, RATE_HZ)
    with pytest.raises(UsageError, match="2 sample rates for 4 waveforms"):
        tiny.embed_batch(waves, [8000, 8000])
    with pytest.raises(UsageError, match="waveform 0 is too short"):
        tiny.embed_batch([np.zeros(1, np.float32)], 3_000_000)


def test_files_that_cannot_be_embedded_are_told_of(tiny: loev.Model, tmp_path: Path) -> None:
    (tmp_path / "bad.mp3").write_text("this is no music\n" * 50)
    with pytest.raises(InputError, match=r"bad\.mp3"):
        tiny.embed_file(tmp_path / "bad.mp3")
    with pytest.raises(InputError, match=r"gone\.wav"):
        tiny.embed_file(tmp_path / "gone.wav")
    write_audio(tmp_path / "folder" / "x.wav")
    write_audio(tmp_path / "folder" / "y.wav")
    with pytest.raises(InputError, match="folder"):
        tiny.embed_file(tmp_path / "folder")
    with pytest.raises(UsageError, match="nan"):
        tiny.embed_file(tmp_path / "folder" / "x.wav", speed=float("nan"))


def test_what_cannot_be_loaded_is_told_of(tiny: loev.Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        loev.load("nowhere")
    with pytest.raises(UsageError, match="tempi"):
        loev.load(subspaces=["tempi"])
    with pytest.raises(UsageError, match="tpu"):
        loev.load(device="tpu")
    with pytest.raises(UsageError, match="cannot annotate"):
        tiny.annotate(music(1.0), RATE_HZ)
    with pytest.raises(LoevError):
        loev.load(tmp_path)


def test_every_error_is_a_loev_error() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {UsageError, InputError, OutputError} < set(kinds)
    for kind in kinds:
        if issubclass(kind, Exception):
            assert issubclass(kind, loev.LoevError)


INTERRUPTED = """
import os, signal, threading, sys
import numpy as np
import loev_cli as loev
model = loev.load(sys.argv[1])
wave = np.random.default_rng(0).standard_normal(8000 * 60 * 60).astype(np.float32)
timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
timer.start()
try:
    model(wave, 8000, hop_s=0.001)
except KeyboardInterrupt:
    print("interrupted", len(model(wave[:8000], 8000)))
"""


def test_an_interrupted_model_goes_on_to_work(bundle: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(bundle.path)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=True,
        # A job in the background ignores SIGINT, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.stdout.split() == ["interrupted", "3"]


# ---------------------------------------------------------------- embedding files


def test_embed_writes_what_read_reads(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    out = tmp_path / "emb.parquet"
    told: list[Any] = []
    report = loev.embed([library], out, model=bundle.path, on_event=told.append)
    assert report.n_rows == 5 and not report.failures and told
    file = loev.read(out)
    assert isinstance(file, loev.EmbeddingFile) and len(file.paths) == 5
    model = loev.load(bundle.path)
    for i, path in enumerate(file.paths):
        expected = model.embed_file(library / path)
        assert_same({name: x[i] for name, x in file.vectors.items()}, expected)
    assert loev.embed(str(library), str(out), model=bundle.path).n_done == 0


def test_home_is_expanded(
    bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    report = loev.embed("~/library", "~/emb.npz", model=bundle.path)
    assert report.n_rows == 5 and (tmp_path / "emb.npz").is_file()
    one = loev.load(bundle.path).embed_file("~/library/a/same.wav")
    assert_same(one, loev.load(bundle.path).embed_file(library / "a" / "same.wav"))


def test_embed_tells_of_what_it_cannot_do(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bad.mp3").write_text("this is no music\n" * 50)
    with pytest.raises(LoevError, match=r"bad\.mp3"):
        loev.embed(tmp_path / "bad.mp3", tmp_path / "emb.npz", model=bundle.path)
    with pytest.raises(UsageError, match=r"\.csv"):
        loev.embed(tmp_path, tmp_path / "emb.csv", model=bundle.path)
    with pytest.raises(UsageError, match="'-'"):
        loev.embed("-", tmp_path / "emb.npz")
    with pytest.raises(TypeError, match="subspace"):
        loev.embed(tmp_path, tmp_path / "emb.npz", subspace=["pitch"])  # type: ignore[call-arg]


@pytest.mark.parametrize("per_window", [False, True])
def test_a_frame_holds_what_the_file_does(
    bundle: Bundle, library: Path, tmp_path: Path, per_window: bool
) -> None:
    pandas = pytest.importorskip("pandas")
    out = tmp_path / "emb.parquet"
    loev.embed(library, out, model=bundle.path, per_window=per_window, tags=True)
    frame, expected = loev.read(out).to_pandas(), pandas.read_parquet(out)
    assert list(frame.columns) == list(expected.columns) and len(frame) == len(expected)
    for column in frame:
        if column in SUBSPACES:
            np.testing.assert_array_equal(np.stack(frame[column]), np.stack(expected[column]))
        else:
            assert frame[column].tolist() == expected[column].tolist()


def test_a_frame_needs_pandas(
    bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loev.embed(library, tmp_path / "emb.npz", model=bundle.path)
    file = loev.read(tmp_path / "emb.npz")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(errors.MissingExtraError, match=r"loev-cli\[pandas\]"):
        file.to_pandas()


# ---------------------------------------------------------------- the package


@pytest.mark.parametrize(
    "first", ["loev_cli.embed.job", "loev_cli.api", "loev_cli.search", "loev_cli.cli.embed"]
)
def test_embed_is_a_function_whatever_is_imported_first(first: str) -> None:
    code = f"import {first}, loev_cli; loev_cli.embed('gone', 'x.npz')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )
    assert "UsageError" in done.stderr and "gone" in done.stderr


def test_names_are_listed_and_others_are_no_attributes() -> None:
    assert set(loev.__all__) <= set(dir(loev))
    assert all(getattr(loev, name) is not None for name in loev.__all__)
    with pytest.raises(AttributeError, match="embedd"):
        _ = loev.embedd  # type: ignore[attr-defined]
    assert (Path(loev.__file__).parent / "py.typed").is_file()


def test_an_array_is_resampled_as_the_decoder_does(tmp_path: Path) -> None:
    wave = np.stack([music(9.0, rate_hz=44100, seed=seed) for seed in range(3)])
    soundfile.write(tmp_path / "x.wav", wave.T, 44100, subtype="FLOAT")
    decoded = audio.load(tmp_path / "x.wav", 16000)
    array = audio.ArrayDecoding(audio.as_waveform(wave, name="x"), 44100, 16000, name="x")
    np.testing.assert_array_equal(np.concatenate(list(array)), decoded)
    assert array.duration_s == 9.0 and array.peak == pytest.approx(np.abs(wave.mean(0)).max())
