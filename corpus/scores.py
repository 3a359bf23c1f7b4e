"""The scores that come with music21, as notes: parsed once, kept in a small file.

    music21's corpus -> COLLECTIONS (free ones, some of each) -> Piece (quarter notes) -> .json.gz

music21 and its corpus are no dependency: `pip install --no-deps music21` and what it names when it
is imported. Parsing is deterministic: the same music21 gives the same file.
"""

from __future__ import annotations

import gzip
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.perform import Piece
from corpus.synth import Note, Part

# To be raised when the same corpus no longer gives the same notes.
VERSION = 1

_LARGEST_TEXT = 8_000_000  # characters of a file; half a second of parsing a million
_FEWEST_NOTES = 16


@dataclass(frozen=True)
class Collection:
    """Files of the corpus: a pattern, how many pieces at most, and what one file holds.

    Attributes:
        holds: `score`, one piece; `tunes`, many in ABC; `voices`, ABC with one voice per tune.
    """

    pattern: str
    most: int
    holds: str = "score"


# Left out whole, for their terms: Palestrina and every Humdrum file (rights to derivatives
# reserved), the Essen folk songs (non-commercial), book 5 of Monteverdi (scanned from an edition of
# 2003). Single files that claim a copyright and grant nothing are found by `is_free`.
COLLECTIONS: tuple[Collection, ...] = (
    Collection("bach/*.mxl", 45),
    Collection("monteverdi/madrigal.[34].*.mxl", 40),
    Collection("trecento/*", 70),
    Collection("haydn/**/*.mxl", 9),
    Collection("mozart/**/*.mxl", 16),
    Collection("beethoven/**/*.mxl", 22),
    Collection("schumann_*/**/*", 12),
    Collection("schoenberg/**/*.mxl", 2),
    Collection("webern/*.mxl", 1),
    Collection("joplin/*.mxl", 1),
    Collection("schubert/*.xml", 1),
    Collection("verdi/*.mxl", 1),
    Collection("weber/*.mxl", 1),
    Collection("handel/**/*.mxl", 1),
    Collection("corelli/**/*.xml", 1),
    Collection("cpebach/*.mxl", 1),
    Collection("beach/*.musicxml", 1),
    Collection("liliuokalani/*.mxl", 1),
    Collection("johnson_j_r/*.mxl", 1),
    Collection("leadSheet/*.mxl", 2),
    Collection("lusitano/*.mxl", 1),
    Collection("ciconia/*.xml", 1),
    Collection("luca/*.xml", 1),
    Collection("josquin/*.abc", 8, "voices"),
    Collection("ryansMammoth/*.abc", 110),
    Collection("oneills1850/*.abc", 60, "tunes"),
    Collection("airdsAirs/*.abc", 40, "tunes"),
    Collection("miscFolk/*.abc", 25, "tunes"),
)

_OLD = re.compile(r"_(old|bak)$")  # another encoding of a piece that is there
_CLAIM = re.compile(r"copyright|©|\(c\)\s*\d{4}|all rights|edizion", re.IGNORECASE)
_GRANT = re.compile(
    r"public domain|\bP\.D\.|creative commons|\bCC[- ]|CC0|freely distributed|"
    r"GNU General Public License",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"<rights[^>]*>.*?</rights>|<credit-words[^>]*>[^<]*</credit-words>"
    r"|<miscellaneous-field[^>]*>[^<]*<|^%[^\n]*|^[NZSF]:[^\n]*",
    re.DOTALL | re.MULTILINE,
)


def statements(text: str) -> str:
    """What a MusicXML or ABC file says of its rights, origin and encoder."""
    return "\n".join(_STATEMENT.findall(text))


def is_free(text: str) -> bool:
    """Whether a file claims no copyright, or claims one and grants its use."""
    said = statements(text)
    return _CLAIM.search(said) is None or _GRANT.search(said) is not None


def read_text(path: Path) -> str:
    """A MusicXML (compressed or not) or ABC file as text."""
    data = path.read_bytes()
    if path.suffix == ".mxl":
        with zipfile.ZipFile(path) as archive:
            inside = [n for n in archive.namelist() if not n.startswith("META-INF")]
            data = archive.read(next(n for n in inside if n.endswith((".xml", ".musicxml"))))
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    return data.decode("utf-8", "replace")


def tunes_of(text: str) -> list[str]:
    """The tunes of an ABC file: each begins with its `X:` line."""
    starts = [match.start() for match in re.finditer(r"^X:", text, re.MULTILINE)]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def parse_corpus(
    report: Callable[[str], None], collections: Sequence[Collection] = COLLECTIONS
) -> list[Piece]:
    """The pieces of the collections; `report` is told, a line each, what was left out and why.

    Raises:
        RuntimeError: music21 is not installed, or not whole.
    """
    try:
        import music21
    except ImportError as error:
        raise RuntimeError(
            f"scores need music21 ({error}): pip install --no-deps music21 chardet joblib "
            "jsonpickle more-itertools webcolors"
        ) from error
    root = Path(music21.__file__).parent / "corpus"
    pieces: dict[str, Piece] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bars that are too full, and the like
        for collection in collections:
            for name, load in _chosen(root, collection, report):
                try:
                    piece = _piece(name, load())
                except Exception as error:
                    # music21 raises what it likes on a score it cannot read.
                    report(f"{name}: {type(error).__name__}: {first_line(error)}")
                    continue
                if sum(len(part.notes) for part in piece.parts) < _FEWEST_NOTES:
                    report(f"{name}: left out, fewer than {_FEWEST_NOTES} notes")
                elif piece.name in pieces:
                    report(f"{name}: left out, {piece.name} is there")
                else:
                    pieces[piece.name] = piece
    return list(pieces.values())


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return str(error).strip().partition("\n")[0]


def _chosen(
    root: Path, collection: Collection, report: Callable[[str], None]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, loader) of the pieces wanted of a collection, evenly spread over what there is."""
    from music21 import converter

    found: list[tuple[str, Callable[[], Any]]] = []
    for path in sorted(root.glob(collection.pattern)):
        name = str(path.relative_to(root).with_suffix(""))
        if path.suffix not in {".mxl", ".xml", ".musicxml", ".abc"} or _OLD.search(name):
            continue
        text = read_text(path)
        if not is_free(text):
            report(f"{name}: left out, claims a copyright and grants no use")
            continue
        if len(text) > _LARGEST_TEXT:
            report(f"{name}: left out, {len(text) / 1e6:.1f} million characters")
            continue
        if collection.holds == "tunes":
            for i, tune in enumerate(tunes_of(text)):

                def load_tune(tune: str = tune) -> Any:
                    return converter.parseData(tune, format="abc")

                found.append((f"{name}-{i + 1:03d}", load_tune))
        else:

            def load(path: Path = path) -> Any:
                score: Any = converter.parseFile(path, forceSource=True, storePickle=False)
                return score.mergeScores() if collection.holds == "voices" else score

            found.append((name, load))
    step = max(1.0, len(found) / collection.most)
    for i in range(min(len(found), collection.most)):
        yield found[int(i * step)]


def _piece(name: str, score: Any) -> Piece:
    """Sounding notes of each part, in quarter notes; grace notes and what has no pitch left out."""
    if any(part.getInstrument().transposition is not None for part in score.parts):
        score = score.toSoundingPitch()
    parts = []
    beats = set()
    for number, part in enumerate(score.parts):
        flat = part.flatten()
        beats |= {float(s.beatDuration.quarterLength) for s in flat.getTimeSignatures()}
        notes = _joined(flat)
        if notes:
            parts.append(Part(f"part {number}", 0, notes))
    beat = beats.pop() if len(beats) == 1 else None
    return Piece(
        name=re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-"),
        source="music21",
        parts=tuple(parts),
        length=max(1.0, float(score.highestTime)),
        bpm=None if beat is None else 60 / beat,
        is_score=True,
    )


def _joined(flat: Any) -> tuple[Note, ...]:
    """The notes of a flat stream with ties joined."""
    notes: list[Note] = []
    tied: dict[int, int] = {}  # pitch -> index of the note that goes on
    for element in flat.notes:
        if "Harmony" in element.classSet or not element.quarterLength:
            continue  # a chord symbol; a grace note
        onset, length = float(element.offset), float(element.quarterLength)
        for member in element.notes if element.isChord else (element,):
            if not hasattr(member, "pitch"):
                continue  # unpitched percussion
            pitch = int(member.pitch.midi)
            tie = "" if member.tie is None else member.tie.type
            if tie in {"stop", "continue"} and pitch in tied:
                i = tied[pitch]
                begun = notes[i].onset_s
                notes[i] = Note(begun, onset + length - begun, pitch, 80)
            else:
                tied[pitch] = len(notes)
                notes.append(Note(onset, length, pitch, 80))
            if tie not in {"start", "continue"}:
                tied.pop(pitch, None)
    return tuple(notes)


def write_scores(path: Path, pieces: list[Piece]) -> None:
    """Write pieces to a .json.gz, the same bytes for the same pieces; whole or not at all."""
    content = {
        "version": VERSION,
        "pieces": [
            {
                "name": piece.name,
                "length": float(piece.length),
                "bpm": piece.bpm,
                "parts": [
                    [[round(n.onset_s, 5), round(n.duration_s, 5), n.pitch] for n in part.notes]
                    for part in piece.parts
                ],
            }
            for piece in pieces
        ],
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))
    partial.replace(path)


def read_scores(path: Path) -> list[Piece]:
    """The pieces of a file of `write_scores`.

    Raises:
        ValueError: the file is another's, or of another version.
    """
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, not {VERSION}")
        return [
            Piece(
                name=str(item["name"]),
                source="music21",
                parts=tuple(
                    Part(f"part {i}", 0, tuple(Note(a, b, int(c), 80) for a, b, c in notes))
                    for i, notes in enumerate(item["parts"])
                ),
                length=float(item["length"]),
                bpm=item["bpm"],
                is_score=True,
            )
            for item in content["pieces"]
        ]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of parsed scores ({error}); remove it") from error
