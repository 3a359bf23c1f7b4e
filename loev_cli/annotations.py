"""Plain answers from a model's subspaces: bpm, key and mode, each with a confidence.

    subspace (D,) --readout: linear, in the bundle--> logits --softmax, here--> answer, confidence

readout  reads    logits                       answers, as columns
key      pitch    24 keys                      key "F# minor", mode "minor", key_confidence
tempo    tempo    tempi, evenly spaced in log  bpm, bpm_confidence

A readout is linear, so a track's logits are the mean of its windows' logits, which is what a
readout gives for the mean of its windows' vectors. The softmax comes last, with a temperature that
makes confidences probabilities: that the key is right in tonic and mode, that the tempo is right
within 4 %. A silent track has no answer: NaN, and empty text.

A bundle's ``config.json`` describes its readouts under ``annotations``; their weights are in
``annotations.safetensors``, and ``model.onnx`` gives their logits as outputs of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from loev_cli.bundle import ANNOTATIONS_FILE, CONFIG_FILE, Bundle
from loev_cli.errors import BundleError, UsageError
from loev_cli.music_keys import KEYS

TEMPO_TOLERANCE = 0.04  # of MIREX: a tempo this near is right
_MAX_N_BINS = 10_000
_MAX_NUMBER = 1e9
_NAMES = ("subspace", "output")  # what a readout has beside numbers

# Column -> what stands in it for a track without an answer, which tells its type too.
COLUMNS: dict[str, float | str] = {
    "bpm": math.nan,
    "bpm_confidence": math.nan,
    "key": "",
    "mode": "",
    "key_confidence": math.nan,
}

Answer = dict[str, float | str]


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
    columns: ClassVar[tuple[str, ...]] = ("bpm", "bpm_confidence")

    @property
    def n_logits(self) -> int:
        return self.n_bins

    @property
    def log2_bpm(self) -> NDArray[np.float64]:
        """(n_bins,): what the logits stand for."""
        bins = np.arange(self.n_bins) / self.bins_per_octave
        return np.asarray(math.log2(self.min_bpm) + bins)

    def answer(self, logits: NDArray[np.floating[Any]]) -> Answer:
        """The center of mass of the most probable stretch of tempi that one answer covers."""
        p = softmax(logits, self.temperature)
        half = max(1, int(math.log2(1 + TEMPO_TOLERANCE) * self.bins_per_octave))
        best = int(np.convolve(p, np.ones(2 * half + 1), "same").argmax())
        near = slice(max(0, best - half), best + half + 1)
        bpm = float(2 ** np.average(self.log2_bpm[near], weights=p[near]))
        return {"bpm": _float32(bpm), "bpm_confidence": _float32(p[self.within(bpm)].sum())}

    def within(self, bpm: float) -> NDArray[np.bool_]:
        """(n_bins,): which tempi an answer of ``bpm`` counts as right for."""
        return np.abs(2**self.log2_bpm / bpm - 1) <= TEMPO_TOLERANCE


Readout = KeyReadout | TempoReadout
KINDS: dict[str, type[Readout]] = {"key": KeyReadout, "tempo": TempoReadout}


@dataclass(frozen=True)
class Annotator:
    """A model's readouts.

    Attributes:
        readouts: name -> readout, in the order of ``COLUMNS``.
        sha256: identity of their weights.
    """

    readouts: Mapping[str, Readout]
    sha256: str

    @property
    def outputs(self) -> dict[str, int]:
        """Name of each output -> number of its logits."""
        return {readout.output: readout.n_logits for readout in self.readouts.values()}

    @property
    def subspaces(self) -> tuple[str, ...]:
        """What is read, each once."""
        return tuple(dict.fromkeys(readout.subspace for readout in self.readouts.values()))

    @property
    def columns(self) -> tuple[str, ...]:
        """What is answered, in the order of ``COLUMNS``."""
        answered = {name for readout in self.readouts.values() for name in readout.columns}
        return tuple(name for name in COLUMNS if name in answered)

    def answer(self, logits: Mapping[str, NDArray[np.float32]], *, silent: bool) -> Answer:
        """A track's logits, output -> (n,), -> column -> value."""
        if silent:
            return {name: COLUMNS[name] for name in self.columns}
        said: Answer = {}
        for readout in self.readouts.values():
            said |= readout.answer(logits[readout.output])
        return {name: said[name] for name in self.columns}


def open_annotator(bundle: Bundle) -> Annotator:
    """The readouts of a model.

    Raises:
        UsageError: it has none.
        BundleError: its config does not describe them as it should.
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
    return Annotator(readouts, sha256)


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
