"""Plain answers from a model's subspaces: bpm, key and mode, each with a confidence.

    subspace (D,) --readout: linear--> logits --softmax--> answer, confidence

readout  reads    logits                       answers, as columns
key      pitch    24 keys                      key "F# minor", mode "minor", key_confidence
tempo    tempo    tempi, evenly spaced in log  bpm, bpm_confidence, bpm_alt, bpm_alt_confidence

A readout takes the mean of a track's windows, which is what an embedding file holds: a track that
was embedded is annotated without its audio. The softmax comes last, with a temperature that makes
confidences probabilities: that the key is right in tonic and mode, that the tempo is right within
4 %. A silent track has no answer: NaN, and empty text.

``bpm_alt`` is the most probable of the tempi more than 8 % away from ``bpm``, with its own
probability: nearly always half or twice the tempo. A range of tempi, such as 80 to 160 BPM, folds
the distribution before it is read: the probability of a tempo outside of the range is added to that
of the tempo whole octaves away that lies in it.

A bundle's ``config.json`` describes its readouts under ``annotations``; their weights are in
``annotations.safetensors``. ``model.onnx`` gives the same logits per window as outputs of their
own, for whoever runs the graph without loev.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from loev_cli import windows
from loev_cli.bundle import ANNOTATIONS_FILE, CONFIG_FILE, Bundle
from loev_cli.errors import BundleError, UsageError
from loev_cli.music_keys import KEYS
from loev_cli.storage.bounded import DATA_ERRORS, in_one_line

TEMPO_TOLERANCE = 0.04  # of MIREX: a tempo this near is right
_APART = 2 * TEMPO_TOLERANCE  # an alternative is further than this from the answer
LOWEST_RANGE = (40.0, 120.0)  # where a range of tempi may begin, in BPM
_MAX_N_BINS = 10_000
_MAX_NUMBER = 1e9
_NAMES = ("subspace", "output")  # what a readout has beside numbers

# Column -> what stands in it for a track without an answer, which tells its type too.
COLUMNS: dict[str, float | str] = {
    "bpm": math.nan,
    "bpm_confidence": math.nan,
    "bpm_alt": math.nan,
    "bpm_alt_confidence": math.nan,
    "key": "",
    "mode": "",
    "key_confidence": math.nan,
}

Answer = dict[str, float | str]
BpmRange = tuple[float, float]  # lowest BPM, and the BPM below which tempi lie


def parse_bpm_range(text: str) -> BpmRange:
    """``80-160`` -> (80.0, 160.0): tempi from 80 up to but not including 160 BPM.

    Raises:
        UsageError: no two numbers, less than an octave, or a lowest tempo outside 40 to 120 BPM.
    """
    try:
        low, high = (float(part) for part in text.split("-"))
    except ValueError as error:
        hint = "for example 80-160, or 60-180"
        raise UsageError(f"invalid BPM range '{text}'", hint=hint) from error
    return _checked_range((low, high))


def _checked_range(bpm_range: BpmRange) -> BpmRange:
    low, high = bpm_range
    starts = LOWEST_RANGE[0] <= low <= LOWEST_RANGE[1]
    if not (starts and math.isfinite(high) and high >= 2 * low):  # false for NaN too
        raise UsageError(
            f"invalid BPM range '{low:g}-{high:g}'",
            hint=f"it begins at {LOWEST_RANGE[0]:g} to {LOWEST_RANGE[1]:g} BPM and spans at least "
            "an octave, as 80-160 does",
        )
    return low, high


@dataclass(frozen=True)
class KeyReadout:
    """Logits of the 24 keys in the order of ``KEYS``.

    Attributes:
        subspace: which it reads.
        temperature: what logits are divided by before the softmax.
        output: what its logits are called among a model's outputs.
        columns: what it answers.
    """

    subspace: str
    temperature: float = 1.0
    output: str = "key_logits"
    columns: ClassVar[tuple[str, ...]] = ("key", "mode", "key_confidence")

    @property
    def n_logits(self) -> int:
        return len(KEYS)

    def answer(self, logits: NDArray[np.floating[Any]]) -> Answer:
        p = softmax(logits, self.temperature)
        best = int(p.argmax())
        key = KEYS[best]
        return {"key": key, "mode": key.split()[1], "key_confidence": _float32(p[best])}


@dataclass(frozen=True)
class TempoReadout:
    """Logits of ``n_bins`` tempi from ``min_bpm`` up, ``bins_per_octave`` to a factor of 2.

    Attributes: as of :class:`KeyReadout`.
    """

    subspace: str
    temperature: float = 1.0
    min_bpm: float = 40.0
    bins_per_octave: int = 48
    n_bins: int = 125  # up to 240 BPM
    output: str = "tempo_logits"
    columns: ClassVar[tuple[str, ...]] = ("bpm", "bpm_confidence", "bpm_alt", "bpm_alt_confidence")

    @property
    def n_logits(self) -> int:
        return self.n_bins

    @property
    def log2_bpm(self) -> NDArray[np.float64]:
        """(n_bins,): what the logits stand for."""
        bins = np.arange(self.n_bins) / self.bins_per_octave
        return np.asarray(math.log2(self.min_bpm) + bins)

    def answer(
        self, logits: NDArray[np.floating[Any]], *, bpm_range: BpmRange | None = None
    ) -> Answer:
        """The tempo with most probability within 4 %, and the best one that is further away.

        Args:
            logits: (n_bins,).
            bpm_range: fold the distribution into this range first; None: as it is.
        """
        p = softmax(logits, self.temperature)
        bpm = self._most_probable(p, bpm_range)
        rest = np.where(self._covered(bpm, bpm_range, _APART), 0.0, p)
        alternative = self._most_probable(rest, bpm_range)
        return {
            "bpm": _float32(bpm),
            "bpm_confidence": _float32(p[self._covered(bpm, bpm_range)].sum()),
            "bpm_alt": _float32(alternative),
            "bpm_alt_confidence": _float32(rest[self._covered(alternative, bpm_range)].sum()),
        }

    def _most_probable(self, p: NDArray[np.float64], bpm_range: BpmRange | None) -> float:
        """The center of mass of the most probable stretch of tempi that one answer covers.

        Args:
            p: (n_bins,), need not sum to 1.

        Returns:
            BPM; NaN if no tempo has any probability.
        """
        half = max(1, int(math.log2(1 + TEMPO_TOLERANCE) * self.bins_per_octave))
        offsets = np.arange(-half, half + 1)
        bins = np.arange(self.n_bins)

        def stretch(octaves: int) -> NDArray[np.float64]:
            """(n_bins, offsets): the mass around each bin, moved by so many octaves."""
            at = bins[:, None] + offsets + octaves * self.bins_per_octave
            inside = (at >= 0) & (at < self.n_bins)
            return np.where(inside, p[np.clip(at, 0, self.n_bins - 1)], 0.0)

        mass = stretch(0)
        if bpm_range is not None:
            for octaves, folds in self._folds(2**self.log2_bpm, bpm_range):
                mass += np.where(folds[:, None], stretch(octaves), 0.0)
            bpm = 2**self.log2_bpm
            mass[(bpm < bpm_range[0]) | (bpm >= bpm_range[1])] = 0.0
        best = int(mass.sum(axis=1).argmax())
        if not mass[best].any():
            return math.nan
        center = np.average(
            self.log2_bpm[best] + offsets / self.bins_per_octave, weights=mass[best]
        )
        bpm_there = float(2**center)
        if bpm_range is not None:  # the center of a stretch at the edge may lie just outside
            if bpm_there < bpm_range[0]:
                bpm_there *= 2
            elif bpm_there >= bpm_range[1]:
                bpm_there /= 2
        return bpm_there

    def _folds(
        self, bpm: NDArray[np.float64], bpm_range: BpmRange
    ) -> list[tuple[int, NDArray[np.bool_]]]:
        """For each number of octaves, which of these tempi take over what lies there."""
        low, high = bpm_range
        most = math.ceil(self.n_bins / self.bins_per_octave)
        up = [(octaves, 2 * bpm >= high) for octaves in range(1, most + 1)]
        down = [(-octaves, bpm / 2 < low) for octaves in range(1, most + 1)]
        return up + down

    def _covered(
        self, bpm: float, bpm_range: BpmRange | None, tolerance: float = TEMPO_TOLERANCE
    ) -> NDArray[np.bool_]:
        """(n_bins,): the tempi that an answer of ``bpm`` stands for, also whole octaves away."""
        covered = self.within(bpm, tolerance)
        if bpm_range is not None:
            for octaves, folds in self._folds(np.array([bpm]), bpm_range):
                if folds[0]:
                    covered = covered | self.within(bpm * 2.0**octaves, tolerance)
        return covered

    def within(self, bpm: float, tolerance: float = TEMPO_TOLERANCE) -> NDArray[np.bool_]:
        """(n_bins,): which tempi an answer of ``bpm`` counts as right for; none if it is NaN."""
        return np.asarray(np.abs(2**self.log2_bpm / bpm - 1) <= tolerance)


Readout = KeyReadout | TempoReadout
Weights = tuple[NDArray[np.float32], NDArray[np.float32]]  # (n, D), and the bias (n,)
KINDS: dict[str, type[Readout]] = {"key": KeyReadout, "tempo": TempoReadout}


@dataclass(frozen=True)
class Annotator:
    """A model's readouts.

    Attributes:
        readouts: name -> readout, in the order of ``COLUMNS``.
        weights: name -> its weights.
        sha256: identity of the weights.
        bpm_range: what tempi are folded into; None: not at all.
    """

    readouts: Mapping[str, Readout]
    weights: Mapping[str, Weights]
    sha256: str
    bpm_range: BpmRange | None = None

    @property
    def subspaces(self) -> tuple[str, ...]:
        """What is read, each once."""
        return tuple(dict.fromkeys(readout.subspace for readout in self.readouts.values()))

    @property
    def columns(self) -> tuple[str, ...]:
        """What is answered, in the order of ``COLUMNS``."""
        answered = {name for readout in self.readouts.values() for name in readout.columns}
        return tuple(name for name in COLUMNS if name in answered)

    def logits(self, vectors: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
        """Subspace -> (..., D), -> readout -> (..., n)."""
        logits = {}
        for name, readout in self.readouts.items():
            weight, bias = self.weights[name]
            logits[name] = vectors[readout.subspace].astype(np.float64) @ weight.T + bias
        return logits

    def answer(self, vectors: Mapping[str, NDArray[np.float32]], *, silent: bool) -> Answer:
        """A track's vectors, subspace -> (D,) or its windows' (M, D), -> column -> value."""
        if silent:
            return {name: COLUMNS[name] for name in self.columns}
        read = {name: vectors[name] for name in self.subspaces}
        of_windows = any(x.ndim == 2 for x in read.values())
        logits = self.logits(windows.mean(read) if of_windows else read)
        said: Answer = {}
        for name, readout in self.readouts.items():
            if isinstance(readout, TempoReadout):
                said |= readout.answer(logits[name], bpm_range=self.bpm_range)
            else:
                said |= readout.answer(logits[name])
        return {name: said[name] for name in self.columns}


def open_annotator(bundle: Bundle, bpm_range: BpmRange | None = None) -> Annotator:
    """The readouts of a model.

    Args:
        bpm_range: what tempi are folded into; None: not at all.

    Raises:
        UsageError: it has none, or none of tempo to fold; or the range is impossible.
        BundleError: its config does not describe them as it should, or their weights are damaged.
    """
    described = bundle.config.get("annotations")
    if described is None:
        raise UsageError(
            f"model {bundle.name} cannot annotate: it has no readouts of key and tempo",
            hint=f"'loev export {bundle.path} --annotate LABELS.csv --out FOLDER' fits them",
        )
    problem = f"{bundle.path / CONFIG_FILE} does not describe its annotations"
    try:
        readouts: dict[str, Readout] = {
            name: KINDS[name](**described["readouts"][name])
            for name in KINDS
            if name in described["readouts"]
        }
        sha256 = str(bundle.config["files"][ANNOTATIONS_FILE]["sha256"])
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{problem}: {error}", hint="export the model again") from error
    if not readouts or any(not _is_sound(readout, bundle) for readout in readouts.values()):
        raise BundleError(problem, hint="export the model again")
    if bpm_range is not None and "tempo" not in readouts:
        raise UsageError(f"model {bundle.name} has no readout of tempo for a BPM range")
    return Annotator(
        readouts,
        _read_weights(bundle, readouts),
        sha256,
        None if bpm_range is None else _checked_range(bpm_range),
    )


def _read_weights(bundle: Bundle, readouts: Mapping[str, Readout]) -> dict[str, Weights]:
    """Raises BundleError where they are missing, damaged, or not as the config describes them."""
    from safetensors import SafetensorError  # here: whoever reads a file's columns needs no weights
    from safetensors.numpy import load_file

    file = bundle.verified(ANNOTATIONS_FILE)
    try:
        arrays = load_file(file)
        weights = {name: (arrays[f"{name}.weight"], arrays[f"{name}.bias"]) for name in readouts}
        for name, readout in readouts.items():
            shape = (readout.n_logits, bundle.subspaces[readout.subspace])
            if [x.shape for x in weights[name]] != [shape, shape[:1]]:
                raise ValueError(f"{name} has another shape than {shape}")
            if not all(np.isfinite(x).all() for x in weights[name]):
                raise ValueError(f"{name} has NaN or infinite weights")
    except (*DATA_ERRORS, SafetensorError) as error:
        raise BundleError(
            f"{file} does not match {CONFIG_FILE}: {in_one_line(error)}",
            hint="export the model again",
        ) from error
    return weights


def to_config(readouts: Mapping[str, Readout]) -> dict[str, Any]:
    """What ``config.json`` says of readouts; the inverse of what :func:`open_annotator` reads."""
    return {name: asdict(readout) for name, readout in readouts.items()}


def softmax(logits: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """(..., n) -> probabilities (..., n)."""
    scaled = np.asarray(logits, np.float64) / temperature
    raised = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _is_sound(readout: Readout, bundle: Bundle) -> bool:
    numbers = [value for name, value in vars(readout).items() if name not in _NAMES]
    return (
        isinstance(readout.subspace, str)
        and readout.subspace in bundle.subspaces
        and isinstance(readout.output, str)
        and readout.output not in bundle.subspaces
        and all(isinstance(value, int | float) and 0 < value < _MAX_NUMBER for value in numbers)
        and isinstance(readout.n_logits, int)
        and readout.n_logits <= _MAX_N_BINS
    )


def _float32(value: float) -> float:
    """As every format keeps it, so that all of them say the same."""
    return float(np.float32(value))
