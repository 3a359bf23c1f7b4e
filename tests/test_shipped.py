"""The guarantees on the numbers, with every model that ships."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile

from loev_cli import bundle as bundles
from loev_cli.annotations import open_annotator
from loev_cli.backends import open_encoder
from loev_cli.bundle import CARD_FILE, ONNX_FILE, WEIGHTS_FILE, Bundle
from loev_cli.embed import Request, annotate, embed
from loev_cli.formats import EmbeddingFile, read, rows
from loev_cli.music_keys import KEYS, parse_key
from tests.conftest import music
from tests.reference.freeze import MUSIC, annotates, first_windows, frozen_file

TOLERANCE = 1e-5

every_model = pytest.mark.parametrize("model", bundles.shipped(), ids=lambda model: model.name)


def embedded(model: Bundle, folder: Path, **options: object) -> EmbeddingFile:
    out = folder.parent / "x.npz"
    embed(Request([str(folder)], str(out), model=str(model.path), overwrite=True, **options))  # type: ignore[arg-type]
    return read(out)


@every_model
def test_it_is_whole(model: Bundle) -> None:
    for filename in (ONNX_FILE, WEIGHTS_FILE):
        model.verified(filename)
    assert (model.path / CARD_FILE).is_file()
    assert model.path.name == model.name


@every_model
def test_a_vector_does_not_depend_on_its_batch(model: Bundle) -> None:
    n, size = 5, model.window_n_samples
    batch = music(n * model.window_s, rate_hz=model.sample_rate_hz)[: n * size].reshape(n, size)
    batch[2] = 0.0
    encoder = open_encoder(model, device="cpu")
    together = encoder.encode(batch)
    assert {name: v.shape[1] for name, v in together.items()} == model.subspaces
    for i in range(n):
        for name, vectors in encoder.encode(batch[i : i + 1]).items():
            np.testing.assert_allclose(vectors[0], together[name][i], atol=TOLERANCE, rtol=0)
            assert np.isfinite(vectors).all()


@every_model
def test_files_of_every_kind(model: Bundle, tmp_path: Path) -> None:
    rate_hz, folder = 44100, tmp_path / "in"
    folder.mkdir()
    seconds = 1.3 * model.window_s
    mono = music(seconds, rate_hz=rate_hz)
    quiet = 0.01 * mono
    click = quiet.copy()
    click[-rate_hz // 100 :] = np.random.default_rng(0).choice([-0.9, 0.9], rate_hz // 100)
    files = {
        "mono": mono,
        "dual": np.stack([mono, mono], 1),
        "quiet": quiet,
        "click": click,  # within the last 10 ms
        "silence": np.zeros(len(mono)),
        "short": music(0.3, rate_hz=rate_hz),
        "sample": np.full(3, 0.5),
    }
    for name, samples in files.items():
        soundfile.write(folder / f"{name}.wav", samples, rate_hz, "FLOAT")
    file = embedded(model, folder)
    assert set(file.paths) == {f"{name}.wav" for name in files}
    at = {path.removesuffix(".wav"): i for i, path in enumerate(file.paths)}
    assert file.silent.tolist() == [name == "silence" for name in at]
    for name, vectors in file.vectors.items():
        assert np.isfinite(vectors).all()
        np.testing.assert_allclose(vectors[at["mono"]], vectors[at["dual"]], atol=TOLERANCE)
        moved = np.abs(vectors[at["click"]] - vectors[at["quiet"]]).max()
        assert moved > 100 * TOLERANCE, f"{name} does not hear the end"
    for batch_size, workers in ((1, 1), (16, 3)):
        again = embedded(model, folder, batch_size=batch_size, workers=workers)
        for name, vectors in again.vectors.items():
            np.testing.assert_allclose(vectors, file.vectors[name], atol=TOLERANCE, rtol=0)


@every_model
def test_torch_and_onnx_agree_on_real_audio(model: Bundle, tmp_path: Path) -> None:
    files = {}
    for backend in ("onnx", "torch"):
        out = tmp_path / f"{backend}.npz"
        embed(Request([str(MUSIC)], str(out), model=str(model.path), backend=backend))
        files[backend] = read(out)
    assert files["onnx"].paths == files["torch"].paths
    for name, vectors in files["onnx"].vectors.items():
        assert len(vectors) >= 6
        np.testing.assert_allclose(vectors, files["torch"].vectors[name], atol=1e-4, rtol=0)


@every_model
def test_it_gives_what_it_gave_when_it_was_shipped(model: Bundle) -> None:
    """Frozen by tests/reference/freeze.py."""
    vectors = open_encoder(model, device="cpu").encode(first_windows(model))
    with np.load(frozen_file(model)) as frozen:
        assert str(frozen["sha256"]) == model.sha256
        for name in model.subspaces:
            np.testing.assert_allclose(vectors[name], frozen[name], atol=1e-4, rtol=0)
        if annotates(model):
            annotator = open_annotator(model)
            assert str(frozen["readouts_sha256"]) == annotator.sha256
            for name, logits in annotator.logits(vectors).items():
                expected = frozen[annotator.readouts[name].output]
                # Differences of 0.01 tell nothing apart.
                np.testing.assert_allclose(logits, expected, atol=3e-3, rtol=0)


@every_model
def test_its_graph_gives_the_same_logits(model: Bundle) -> None:
    """For whoever runs ``model.onnx`` alone."""
    if not annotates(model):
        pytest.skip("this model has no readouts")
    windows, annotator = first_windows(model), open_annotator(model)
    ours = annotator.logits(open_encoder(model, device="cpu").encode(windows))
    session = onnxruntime.InferenceSession(model.path / ONNX_FILE)
    for name, readout in annotator.readouts.items():
        (theirs,) = session.run([readout.output], {"waveform": windows})
        np.testing.assert_allclose(theirs, ours[name], atol=3e-3, rtol=0)


@every_model
def test_stored_vectors_give_the_answers_of_the_audio(model: Bundle, tmp_path: Path) -> None:
    """As near as the vectors of two runs are, whose batches differ; of the same vectors exactly."""
    if not annotates(model):
        pytest.skip("this model has no readouts")

    def answers(given: Path) -> dict[str, dict[str, float | str]]:
        said: dict[str, dict[str, float | str]] = {}
        request = Request([str(given)], None, model=str(model.path), device="cpu")
        annotate(request, lambda row: said.update({row.path: dict(row.annotations)}))
        return said

    heard = answers(MUSIC)
    assert len(heard) == 13
    for name, per_window in (("x.parquet", False), ("x.npz", True)):
        out = tmp_path / name
        options = {"per_window": per_window, "annotate": True}
        embed(Request([str(MUSIC)], str(out), model=str(model.path), **options))
        stored = answers(out)
        assert list(stored) == list(heard)
        assert stored == {row.path: row.annotations for row in rows(out)}
        for path, expected in heard.items():
            for column, value in expected.items():
                near = value if isinstance(value, str) else pytest.approx(value, abs=1e-4)
                assert stored[path][column] == near


@every_model
def test_its_answers_are_right_on_the_examples(model: Bundle) -> None:
    """Every key but two; every tempo but two, octaves allowed. Confidences are probabilities."""
    if not annotates(model):
        pytest.skip("this model has no readouts")
    answers: dict[str, dict[str, float | str]] = {}
    annotate(
        Request([str(MUSIC)], None, model=str(model.path), device="cpu"),
        lambda row: answers.update({row.path: dict(row.annotations)}),
    )
    with (MUSIC / "manifest.csv").open(encoding="utf-8") as lines:
        truth = {row["path"]: row for row in csv.DictReader(lines)}
    assert set(answers) == set(truth)
    right_keys, right_tempi = 0, 0
    for path, answer in answers.items():
        for name in ("bpm_confidence", "key_confidence"):
            assert 0 < float(answer[name]) <= 1
        right_keys += parse_key(truth[path]["key"]) == KEYS.index(str(answer["key"]))
        ratio = float(answer["bpm"]) / float(truth[path]["tempo"])
        right_tempi += min(abs(ratio / f - 1) for f in (1, 2, 3, 1 / 2, 1 / 3)) <= 0.04
    assert right_keys >= len(truth) - 2
    assert right_tempi >= len(truth) - 2


@every_model
def test_it_hears_key_and_tempo_apart(model: Bundle, tmp_path: Path) -> None:
    """The same tune at another tempo is near in `pitch`, in another key near in `tempo`."""
    out = tmp_path / "x.npz"
    embed(Request([str(MUSIC)], str(out), model=str(model.path)))
    file = read(out)
    row = {path.partition(".")[0]: i for i, path in enumerate(file.paths)}

    def distance(subspace: str, a: str, b: str) -> float:
        vectors = file.vectors[subspace]
        return float(np.linalg.norm(vectors[row[a]] - vectors[row[b]]))

    tune = "ballad-in-c-major-72bpm"
    faster, higher = "ballad-in-c-major-108bpm", "ballad-in-e-flat-major-72bpm"
    assert distance("pitch", tune, faster) < 0.7 * distance("pitch", tune, higher)
    assert distance("tempo", tune, higher) < 0.7 * distance("tempo", tune, faster)
