"""Distance each subspace moves under audio transformations of known size.

name    size in               made by
pitch   semitones             an external stretcher
tempo   log2 of the rate      an external stretcher
gain    dB                    multiplication
noise   the music's level     white noise added

The stretcher is not the one used in training, so that the result does not depend on artifacts the
model may have learned: ``rubberband`` (its finer engine, as a command), or
Signalsmith Stretch (the package python-stretch) where that is not installed.

sensitivity    distance moved over the mean distance between different tracks: 0 is unmoved, 1 is as
               far as another recording. Rows are subspaces, columns transformations; ideally it is
               large in the subspace of the transformation and 0 elsewhere
curves         the same for each size of the transformation
monotonicity   Spearman's correlation of the size and the distance moved, per track
predicted      R2 of a regression that predicts the size from the two embeddings, on held-out
               tracks
moved          R2 of the changed embedding predicted from the original and the size, on held-out
               tracks

Distances are Euclidean. One excerpt per track, long enough for a window at the fastest rate.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from loev_cli import audio
from loev_cli.api import Model
from loev_cli.backends.machine import usable_cpus
from loev_cli.errors import InputError, LoevError, UsageError, needs_extra
from loev_cli.evaluate.statistics import Bootstrap, Estimate, r2_of, sensitivity_of
from loev_cli.evaluate.vectors import Subspaces, stack

Waveform = NDArray[np.float32]

STRETCHERS = ("auto", "rubberband", "signalsmith")
# Sample rate for the transformations, at least that of the models.
STRETCH_RATE_HZ = 44100
_MARGIN = 1.4  # windows of the model in an excerpt; rates go up to 2 ** 0.4 = 1.32
_N_COMPONENTS = 16
_N_COMPONENTS_MOVED = 48  # no products are taken of them
_LEAST_LENGTH = 1e-6  # of a direction that is more than rounding
_N_FOLDS = 5
_RIDGE_STRENGTHS = (1e4, 1e2, 1e1, 1.0, 0.1)


class Stretcher(Protocol):
    """Changes speed and pitch of audio.

    Attributes:
        name: for the report.
    """

    name: str

    def __call__(self, waveform: Waveform, *, rate: float, semitones: float) -> Waveform:
        """(N,) at ``STRETCH_RATE_HZ`` -> about (N / rate,)."""
        ...


class Rubberband:
    """The ``rubberband`` command (Breakfast Quay; Debian package rubberband-cli)."""

    name = "rubberband"

    def __call__(self, waveform: Waveform, *, rate: float, semitones: float) -> Waveform:
        with tempfile.TemporaryDirectory(prefix="loev-") as folder:
            source, target = Path(folder) / "source.wav", Path(folder) / "target.wav"
            soundfile.write(source, waveform, STRETCH_RATE_HZ, subtype="FLOAT")
            command = ["rubberband", "-q", "-3", f"--tempo={rate:.9g}", f"--pitch={semitones:.9g}"]
            try:
                subprocess.run([*command, source, target], check=True, capture_output=True)
                changed, _ = soundfile.read(target, dtype="float32")
            except (OSError, subprocess.CalledProcessError, soundfile.LibsndfileError) as error:
                raise LoevError(
                    f"rubberband failed: {error}", hint="try --stretcher signalsmith"
                ) from error
        return np.asarray(changed, np.float32)


class Signalsmith:
    """Signalsmith Stretch, as the package python-stretch binds it (both MIT)."""

    name = "signalsmith"

    def __call__(self, waveform: Waveform, *, rate: float, semitones: float) -> Waveform:
        from python_stretch import Signalsmith as Library

        stretch = Library.Stretch()
        stretch.preset(1, STRETCH_RATE_HZ)
        stretch.setTransposeSemitones(semitones)
        stretch.timeFactor = rate
        return np.array(stretch.process(waveform[None]), np.float32).reshape(-1)


def open_stretcher(name: str) -> Stretcher:
    """``auto`` takes rubberband if its command is there.

    Raises:
        UsageError: an unknown name, or a stretcher that is not installed.
    """
    if name not in STRETCHERS:
        raise UsageError(f"unknown stretcher '{name}'", hint=", ".join(STRETCHERS))
    has_rubberband = shutil.which("rubberband") is not None
    if name == "rubberband" and not has_rubberband:
        raise UsageError(
            "command 'rubberband' not found",
            hint="install it (Debian: rubberband-cli), or use --stretcher signalsmith",
        )
    if name != "signalsmith" and has_rubberband:
        return Rubberband()
    with needs_extra("stretching audio", "eval"):
        import python_stretch  # noqa: F401  (availability check)
    return Signalsmith()


@dataclass(frozen=True)
class Change:
    """One audio transformation.

    Attributes:
        name: that of the corresponding augmentation.
        unit: of the sizes.
        sizes: to apply; 0 is the identity.
        apply: waveform (N,) at ``STRETCH_RATE_HZ``, size, random numbers -> changed.
    """

    name: str
    unit: str
    sizes: tuple[float, ...]
    apply: Callable[[Waveform, float, np.random.Generator], Waveform]


def changes(stretcher: Stretcher) -> list[Change]:
    """All transformations, in the order of the report."""
    return [
        Change(
            "pitch",
            "semitones",
            (-6, -4, -2, -1, 1, 2, 4, 6),
            lambda x, size, rng: stretcher(x, rate=1.0, semitones=size),
        ),
        Change(
            "tempo",
            "log2 of the rate",
            (-0.4, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.4),
            lambda x, size, rng: stretcher(x, rate=2.0**size, semitones=0.0),
        ),
        Change(
            "gain", "dB", (-24, -12, -6, 6), lambda x, size, rng: x * np.float32(10 ** (size / 20))
        ),
        Change("noise", "of the music's level", (0.01, 0.03, 0.1, 0.3), _add_noise),
    ]


def _add_noise(waveform: Waveform, size: float, rng: np.random.Generator) -> Waveform:
    """White noise, ``size`` times as loud as the music on average (0.1: 20 dB below it)."""
    level = size * float(np.sqrt(np.square(waveform, dtype=np.float64).mean()))
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    return waveform + np.float32(level) * noise


@dataclass(frozen=True)
class Changed:
    """Embeddings of n excerpts, original and transformed.

    Attributes:
        rows: (n,) of the manifest.
        groups: (n,).
        plain: subspace -> (n, D).
        changed: transformation -> subspace -> (n, S, D), S sizes.
        sizes: transformation -> its S sizes.
        units: transformation -> unit of its sizes.
        stretcher: used for pitch and tempo.
    """

    rows: NDArray[np.int64]
    groups: NDArray[Any]
    plain: Subspaces
    changed: dict[str, Subspaces]
    sizes: dict[str, tuple[float, ...]]
    units: dict[str, str]
    stretcher: str


@dataclass(frozen=True)
class Rendered:
    """An excerpt at a model's rate.

    Attributes:
        plain: (N,).
        changed: transformation -> a waveform per size.
    """

    plain: Waveform
    changed: dict[str, list[Waveform]]


# File and its index -> its excerpt under every transformation at every size.
Render = Callable[[Path, int], Rendered]


@dataclass(frozen=True)
class Response:
    """Sensitivity of one subspace to one transformation.

    Attributes:
        curve: size -> distance moved relative to that between tracks.
        predicted: R2 of the size predicted from the pair.
    """

    subspace: str
    change: str
    sensitivity: Estimate
    monotonicity: Estimate
    predicted: Estimate
    curve: dict[float, Estimate]

    def record(self, unit: str) -> dict[str, Any]:
        """For ``results.json``."""
        return {
            "subspace": self.subspace,
            "change": self.change,
            "unit": unit,
            "sensitivity": self.sensitivity.as_dict(),
            "monotonicity": self.monotonicity.as_dict(),
            "predicted_r2": self.predicted.as_dict(),
            "curve": [{"size": size, **e.as_dict()} for size, e in self.curve.items()],
        }


def excerpt(file: Path, model: Model) -> Waveform:
    """The middle of a track at ``STRETCH_RATE_HZ``, as long as the transformations need.

    Raises:
        InputError: the file cannot be decoded.
    """
    waveform = audio.load(file, STRETCH_RATE_HZ)
    n = round(_MARGIN * model.window_n_samples / model.sample_rate_hz * STRETCH_RATE_HZ)
    start = max(0, (len(waveform) - n) // 2)
    return waveform[start : start + n]


def embed_changes(
    files: Sequence[Path],
    rows: NDArray[np.int64],
    groups: NDArray[Any],
    models: Sequence[Model],
    changes: Sequence[Change],
    stretcher: str,
    *,
    seed: int = 0,
    on_track: Callable[[int, InputError | None], None] = lambda row, error: None,
    render: Render | None = None,
) -> list[Changed]:
    """Embed excerpts of ``files`` under every transformation at every size.

    Args:
        rows, groups: of the files.
        models: of one window and rate; all embed the same excerpts.
        render: makes an excerpt and its transformed versions; None: :func:`render_excerpt`.

    Raises:
        UsageError: fewer than two files can be used.
    """
    kept: list[int] = []
    plain: list[list[Subspaces]] = [[] for _ in models]
    changed: list[dict[str, list[Subspaces]]] = [{c.name: [] for c in changes} for _ in models]
    for i, file in enumerate(files):
        try:
            made = (
                render(file, i) if render else render_excerpt(file, models[0], changes, (seed, i))
            )
        except InputError as error:
            on_track(i, error)
            continue
        for e, model in enumerate(models):
            rate_hz = model.sample_rate_hz
            plain[e].append(model(made.plain, rate_hz))
            for name, versions in made.changed.items():
                changed[e][name].append(stack([model(version, rate_hz) for version in versions]))
        kept.append(i)
        on_track(i, None)
    if len(kept) < 2:
        raise UsageError(
            "equivariance needs at least two usable tracks", hint="--changed N with N >= 2"
        )
    return [
        Changed(
            rows=rows[kept],
            groups=groups[kept],
            plain=stack(plain[e]),
            changed={name: stack(tracks) for name, tracks in changed[e].items()},
            sizes={change.name: change.sizes for change in changes},
            units={change.name: change.unit for change in changes},
            stretcher=stretcher,
        )
        for e in range(len(models))
    ]


def render_excerpt(
    file: Path, model: Model, changes: Sequence[Change], seed: tuple[int, int]
) -> Rendered:
    """An excerpt under every transformation at every size, at the rate of ``model``.

    Raises:
        InputError: the file cannot be decoded.
    """
    waveform = excerpt(file, model)
    return Rendered(
        _resampled(waveform, model),
        {
            change.name: [_resampled(v, model) for v in _versions(waveform, change, seed)]
            for change in changes
        },
    )


def respond(heard: Changed, *, seed: int = 0) -> list[Response]:
    """The response of every subspace to every transformation."""
    bootstrap = Bootstrap(heard.groups, seed=seed)
    # On matrices as small as these, BLAS threads on busy cores mostly wait for each other.
    with threadpool_limits(limits=1):
        return [
            _response(subspace, change, heard, bootstrap, seed)
            for subspace in heard.plain
            for change in heard.changed
        ]


def _response(
    subspace: str, change: str, heard: Changed, bootstrap: Bootstrap, seed: int
) -> Response:
    moved, between = distances(heard, subspace, change)
    sizes = heard.sizes[change]
    return Response(
        subspace=subspace,
        change=change,
        sensitivity=bootstrap.of(sensitivity_of(moved.mean(axis=1), between), bounds=None),
        monotonicity=bootstrap.mean(
            monotonicity(np.abs(sizes), moved), chance=0.0, bounds=(-1.0, 1.0)
        ),
        predicted=predict_change(
            heard.plain[subspace].astype(np.float64),
            heard.changed[change][subspace].astype(np.float64),
            np.array(sizes),
            heard.groups,
            seed=seed,
        ),
        curve={
            size: bootstrap.of(sensitivity_of(moved[:, s], between), bounds=None)
            for s, size in enumerate(sizes)
        },
    )


def distances(
    heard: Changed, subspace: str, change: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far each of n tracks moves at each size (n, S), and every two tracks are apart (n, n)."""
    plain = heard.plain[subspace].astype(np.float64)
    versions = heard.changed[change][subspace].astype(np.float64)
    return np.linalg.norm(versions - plain[:, None], axis=2), cdist(plain, plain)


def monotonicity(sizes: NDArray[Any], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): Spearman's correlation of sizes (S,) and distances (n, S) of each track.

    It is 0 for a track that does not move at all.
    """
    a = rankdata(sizes)
    b = rankdata(moved, axis=1)
    a, b = a - a.mean(), b - b.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(a) * np.linalg.norm(b, axis=1)
    return np.asarray(np.divide(b @ a, scale, out=np.zeros(len(b)), where=scale > 0))


def predict_change(
    plain: NDArray[np.float64],
    versions: NDArray[np.float64],
    sizes: NDArray[np.float64],
    groups: NDArray[Any],
    *,
    seed: int = 0,
) -> Estimate:
    """R2 of :func:`predicted_sizes`, with its interval; fewer than three groups give NaN."""
    predicted = predicted_sizes(plain, versions, sizes, groups, seed=seed)
    if predicted is None:
        return Estimate(np.nan, np.nan, np.nan, len(plain), len(np.unique(groups)), 0.0)
    return Bootstrap(groups, seed=seed).of(r2_of(*predicted), chance=0.0)


def predicted_sizes(
    plain: NDArray[np.float64],
    versions: NDArray[np.float64],
    sizes: NDArray[np.float64],
    groups: NDArray[Any],
    *,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The signed size, true and predicted from the embeddings of two versions of a track.

    Every two versions of a track whose sizes differ by no more than the largest size are a pair. A
    ridge regression takes both vectors and the products of their first 16 principal components:
    a rotation, such as a transposition, cannot be predicted from a difference. Outer folds over
    groups hold out the test tracks, inner folds choose the regularization.

    Args:
        plain: (n, D). versions: (n, S, D). sizes: (S,). groups: (n,).

    Returns:
        Twice (n, P), P pairs; None for fewer than three groups.
    """
    stack = np.concatenate([plain[:, None], versions], axis=1)  # (n, 1 + S, D)
    amounts = np.append(0.0, sizes)
    pairs = [
        (i, j)
        for i, j in itertools.permutations(range(len(amounts)), 2)
        if abs(amounts[j] - amounts[i]) <= np.abs(sizes).max() + 1e-9
    ]
    first, second = np.array(pairs).T
    wanted = np.tile(amounts[second] - amounts[first], (len(plain), 1))  # (n, P)

    def tell(
        train: NDArray[np.bool_], test: NDArray[np.bool_], strengths: Sequence[float]
    ) -> list[NDArray[np.float64]]:
        """Predictions for the test tracks' pairs by the regression of each strength."""
        read = _pair_reader(stack[train], first, second)
        x, asked, y = read(stack[train]), read(stack[test]), wanted[train].reshape(-1, 1)
        guesses = _ridge(x, y, asked, strengths)
        return [guess.reshape(-1, len(first)) for guess in guesses]

    told = _held_out(tell, wanted, groups, seed)
    return None if told is None else (wanted, told)


def predicted_embeddings(
    plain: NDArray[np.float64],
    versions: NDArray[np.float64],
    groups: NDArray[Any],
    *,
    seed: int = 0,
) -> NDArray[np.float64] | None:
    """Where every change of known size moves an embedding, predicted from the original.

    Each size has a ridge regression of its own, from the first principal components to the
    movement: with the strongest regularization, all tracks move alike. Folds as those of
    :func:`predicted_sizes`.

    Args:
        plain: (n, D). versions: (n, S, D). groups: (n,).

    Returns:
        (n, S, D); None for fewer than three groups.
    """
    movement = (versions - plain[:, None]).reshape(len(plain), -1)

    def tell(
        train: NDArray[np.bool_], test: NDArray[np.bool_], strengths: Sequence[float]
    ) -> list[NDArray[np.float64]]:
        project = _projection(plain[train], _N_COMPONENTS_MOVED)
        return _ridge(project(plain[train]), movement[train], project(plain[test]), strengths)

    told = _held_out(tell, movement, groups, seed)
    return None if told is None else plain[:, None] + told.reshape(versions.shape)


def _held_out(
    tell: Callable[
        [NDArray[np.bool_], NDArray[np.bool_], Sequence[float]], list[NDArray[np.float64]]
    ],
    wanted: NDArray[np.float64],
    groups: NDArray[Any],
    seed: int,
) -> NDArray[np.float64] | None:
    """Predictions of every row of ``wanted`` (n, P) by regressions that have not seen its group.

    Args:
        tell: train rows, test rows, K strengths -> K times predictions for the test rows.
    """
    names = np.unique(groups)
    k = min(_N_FOLDS, len(names))
    if k < 3:
        return None
    order = np.random.default_rng(seed).permutation(len(names)) % k
    fold = order[np.searchsorted(names, groups)]
    told = np.zeros_like(wanted)
    for f in range(k):
        learned = fold != f
        errors = np.zeros(len(_RIDGE_STRENGTHS))
        for g in set(range(k)) - {f}:
            guesses = tell(learned & (fold != g), fold == g, _RIDGE_STRENGTHS)
            errors += [np.square(guess - wanted[fold == g]).sum() for guess in guesses]
        (told[~learned],) = tell(learned, ~learned, [_RIDGE_STRENGTHS[errors.argmin()]])
    return told


def _ridge(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    asked: NDArray[np.float64],
    strengths: Sequence[float],
) -> list[NDArray[np.float64]]:
    """Ridge regression of ``y`` (n, P) with an intercept: (m, P) for ``asked`` (m, C) by strength.

    One eigendecomposition serves all strengths; scikit-learn's ``Ridge`` would make one for each.
    """
    center, mean = x.mean(axis=0), y.mean(axis=0)
    x = x - center
    values, axes = np.linalg.eigh(x.T @ x)
    along, asked = axes.T @ (x.T @ (y - mean)), (asked - center) @ axes
    return [mean + asked @ (along / (values + strength)[:, None]) for strength in strengths]


def _pair_reader(
    train: NDArray[np.float64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Versions (n, 1 + S, D) -> features of their pairs (n * P, 2C + C * C)."""
    project = _projection(train.reshape(-1, train.shape[2]), _N_COMPONENTS)

    def read(versions: NDArray[np.float64]) -> NDArray[np.float64]:
        x = project(versions)  # (n, 1 + S, C)
        n = x.shape[2]
        a, b = x[:, first].reshape(-1, n), x[:, second].reshape(-1, n)
        products = (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
        return np.concatenate([a, b, products], axis=1)

    return read


def _projection(
    train: NDArray[np.float64], n_components: int
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """(..., D) -> its first principal components in ``train`` (n, D).

    One scale for all components, so that weak ones are not amplified.
    """
    center = train.mean(axis=0)
    x = train - center
    n = min(n_components, *x.shape)
    spread = float(np.sqrt(np.square(x).sum() / len(x)))
    # A few eigenvectors of the smaller product are several times faster than all singular vectors.
    if x.shape[1] <= len(x):
        axes = eigh(x.T @ x, subset_by_index=(x.shape[1] - n, x.shape[1] - 1))[1]
    else:
        axes = x.T @ eigh(x @ x.T, subset_by_index=(len(x) - n, len(x) - 1))[1]
        lengths = np.linalg.norm(axes, axis=0)
        axes = axes / np.where(lengths > _LEAST_LENGTH * spread, lengths, np.inf)
    matrix = axes / (spread if spread > 0 else 1.0)
    return lambda x: np.asarray((x - center) @ matrix)


def _versions(waveform: Waveform, change: Change, seed: tuple[int, int]) -> list[Waveform]:
    """One per size, computed in parallel: the stretcher is slower than the model."""
    with ThreadPoolExecutor(usable_cpus()) as threads:
        making = [
            threads.submit(change.apply, waveform, size, np.random.default_rng([*seed, s]))
            for s, size in enumerate(change.sizes)
        ]
        return [made.result() for made in making]


def _resampled(waveform: Waveform, model: Model) -> Waveform:
    resampled = soxr.resample(waveform, STRETCH_RATE_HZ, model.sample_rate_hz, quality="HQ")
    return np.asarray(resampled, np.float32)
