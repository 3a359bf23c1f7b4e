"""What a run tells: progress events, where its time goes, its report, and the list of failures.

``<out>.failures.jsonl`` lists the files that could not be embedded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loev_cli.errors import InputError, OutputError, Stage
from loev_cli.row_names import spell_out
from loev_cli.storage.atomic import writing_own
from loev_cli.storage.bounded import DATA_ERRORS, parse_json, read_bytes
from loev_cli.storage.own import check_own
from loev_cli.storage.replacing import check_earlier, check_no_input

FAILURES_SUFFIX = ".failures.jsonl"
_MAX_N_BYTES = 256 << 20  # of a million files
_HINT = "the embedding file is not affected"


@dataclass(frozen=True)
class Failure:
    """One input that gave no row.

    Attributes:
        path: its row name.
        stage: ``open``, ``decode`` or ``encode``.
        error: the error's type.
        message: one line for people, naming the file.
    """

    path: str
    stage: Stage
    error: str
    message: str


def describe(path: str, error: InputError) -> Failure:
    """The failure of the track ``path``. Its type is the cause's where there is one."""
    kind = error.kind or type(error.__cause__ or error).__name__
    message = spell_out(" ".join(str(error).split()))
    return Failure(path, error.stage, kind, message)


def read_failures(out: str) -> list[Failure]:
    """What the list beside the output ``out`` says; nothing if there is none, or none of ours."""
    try:
        text = read_bytes(Path(out + FAILURES_SUFFIX), _MAX_N_BYTES).decode()
        failures = [Failure(**parse_json(line)) for line in text.splitlines()]
    except (OSError, *DATA_ERRORS):
        return []
    are_texts = all(isinstance(x, str) for one in failures for x in vars(one).values())
    return failures if are_texts else []


def check_failures(out: str, inputs: Iterable[str | Path | int], *, overwrite: bool) -> None:
    """Check, before any work, that a list of failures may be written beside the output ``out``.

    Raises:
        OutputError: a link or something else than a regular file is there.
        UsageError: what is there is an input, or no such list.
    """
    path = Path(out + FAILURES_SUFFIX)
    try:
        check_own(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    check_no_input(path, inputs)
    check_earlier(path, lambda _: bool(read_failures(out)), overwrite=overwrite)


def write_failures(out: str, failures: Sequence[Failure]) -> None:
    """Put the list beside the output ``out``; without failures an earlier list is removed.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(out + FAILURES_SUFFIX)
    try:
        if not failures:
            path.unlink(missing_ok=True)
            return
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}", hint=_HINT) from error
    with writing_own(path, hint=_HINT) as stream:
        for failure in failures:
            stream.write(json.dumps(asdict(failure), ensure_ascii=False).encode() + b"\n")


@dataclass
class Stats:
    """Filled in during a run. All in seconds.

    Attributes:
        n_decoders, n_encoders: how many of each work at once.
        wall_s: time of decoding and encoding by the clock.
        decode_s: CPU time of all decoders, resampling included.
        encode_s: of all encoders, frontend included: CPU time, or the clock's on a GPU.
        write_s: time for rows and output, by the clock.
        decoders_blocked_s: how long decoders stood still, because encoding was behind.
    """

    n_decoders: int
    n_encoders: int
    wall_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0
    decoders_blocked_s: float = 0.0

    def update(
        self, *, wall_s: float, decode_s: float, decoders_blocked_s: float, encode_s: float
    ) -> None:
        """What the stages have measured so far."""
        self.wall_s = wall_s
        self.decode_s = decode_s
        self.decoders_blocked_s = decoders_blocked_s
        self.encode_s = encode_s

    @property
    def waiting_s(self) -> float:
        """How long decoders and encoders were not at work, be it for each other or for a core."""
        places_s = (self.n_decoders + self.n_encoders) * self.wall_s
        return max(0.0, places_s - self.decode_s - self.encode_s)

    def shares(self) -> dict[str, float]:
        """Stage -> its share of the work, from 0 to 1; they sum up to 1."""
        spent = {"decode": self.decode_s, "encode": self.encode_s, "write": self.write_s}
        total = sum(spent.values()) or 1.0
        return {stage: seconds / total for stage, seconds in spent.items()}

    @property
    def decoders_blocked(self) -> float:
        """Share of the decoders' time in which encoding kept them waiting, from 0 to 1."""
        return min(1.0, self.decoders_blocked_s / max(self.n_decoders * self.wall_s, 1e-9))

    @property
    def limit(self) -> str:
        """The stage that a faster run would have to make faster: decode, encode or write."""
        if self.write_s > self.wall_s / 2:
            return "write"
        # Where decoders are kept waiting encoding is what is slow, where they never are it is not.
        if self.decoders_blocked > 0.5:
            return "encode"
        if self.decoders_blocked < 0.1:
            return "decode"
        return "encode" if self.encode_s > self.decode_s else "decode"


_N_EXTENSIONS = 8


@dataclass(frozen=True)
class RunStarted:
    """The inputs are found: so many are to be embedded, so many are done already.

    ``remembered`` are the options that an earlier output was made with and this run was not given.
    """

    n_tracks: int
    n_kept: int = 0
    remembered: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrackDone:
    """A track is embedded, and will not be lost.

    Attributes:
        path: its row name.
        duration_s: decoded length.
        warnings: what was skipped or wrong in the file.
    """

    path: str
    duration_s: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notice:
    """Something the user should know, one line."""

    text: str


Event = RunStarted | TrackDone | Notice | Failure


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        n_done: tracks embedded.
        n_rows: rows in the output, those of earlier runs included.
        failures: the files that gave none, sorted; on standard output in the order given.
        audio_s: length of the audio embedded.
        wall_s: time it took.
        stats: where that time went.
        n_orphans: rows kept though their file is not among the inputs.
        n_missing: rows kept though their file, which is among the inputs, is absent.
        n_pruned: rows of either kind dropped.
        n_out_of_sight: rows kept since their file cannot be looked at.
        n_stale: rows dropped since their file has changed and now fails.
        n_annotated: rows of earlier runs that were annotated from their vectors.
        passed_over: files of folders that were left out, by extension.
    """

    n_done: int
    n_rows: int
    failures: tuple[Failure, ...]
    audio_s: float
    wall_s: float
    stats: Stats = field(default_factory=lambda: Stats(0, 0))
    n_orphans: int = 0
    n_missing: int = 0
    n_pruned: int = 0
    n_out_of_sight: int = 0
    n_stale: int = 0
    n_annotated: int = 0
    passed_over: Mapping[str, int] = field(default_factory=dict)


def not_read(passed_over: Mapping[str, int]) -> list[str]:
    """A line on the files that were passed over; none if there are none."""
    if not passed_over:
        return []
    by_count = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{extension or 'none'} {n}" for extension, n in by_count[:_N_EXTENSIONS]]
    if n_others := sum(n for _, n in by_count[_N_EXTENSIONS:]):
        named.append(f"others {n_others}")
    n_files = sum(passed_over.values())
    files = "1 file" if n_files == 1 else f"{n_files} files"
    were = "was" if n_files == 1 else "were"
    return [f"{files} with other extensions {were} not read: {', '.join(named)}"]
