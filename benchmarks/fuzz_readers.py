"""Does anything that loev reads bring it down? Mutated files of every kind, with a time bound.

    python benchmarks/fuzz_readers.py [--minutes 10] [--seed 0] [--keep FOLDER] [--only KIND ...]

Kinds: audio files of many formats (through a decoder process as `loev embed` uses it: a crash or a
hang there is one failed file, and counted), embedding files of each format, model bundles, and the
journal of a run. Seeds are made here; each round takes one, mutates it (bits, bytes, lengths,
truncation, blocks moved, doubled or from another seed) and reads it.

Attacks are kinds of their own, made with intent and then, half of them, mutated too: arrays that
claim more than the file has (`npz bomb`), nesting (`nested json`: lines, meta, config.json), values
of a graph in other files (`external data`), and links in the place of a journal's files (`journal
link`; what they point to must stay as it was).

Allowed: the content, or a LoevError. A finding is any other exception, a read that takes longer
than 20 s, memory beyond 1 GB, and any unpickling, which an audit hook watches for. Readers run in
a child process of their own: if it dies, the input that did it is a finding too. Findings are
kept. Prints a table of inputs tried and exits 1 if there was a finding.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent.parent
sys.path.insert(0, str(HERE))

LIMIT_S = 20.0
MEMORY_N_BYTES = 3 << 30  # address space that the child may add; libraries reserve much of it
RATE_HZ = 8000
OUTCOMES = ("read", "refused", "decoder died", "FINDING")


@dataclass
class Kind:
    """One kind of input: its seeds, files or folders, and what happened so far."""

    name: str
    seeds: list[Path]
    attack: Callable[[Path, random.Random], None] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


# ---------------------------------------------------------------- seeds


def make_seeds(folder: Path) -> list[Kind]:
    """Small files of every kind, made by the very code that makes users' files."""
    return [
        Kind("audio", list(audio_seeds(folder / "audio"))),
        *embedding_seeds(folder / "embeddings"),
        Kind("bundle", [bundle_seed(folder / "bundle")]),
        Kind("journal", journals := list(journal_seeds(folder / "journal"))),
        Kind("npz bomb", sorted((folder / "embeddings").glob("*.npz")), npz_bomb),
        Kind("nested json", [*sorted((folder / "embeddings").glob("*.jsonl"))], nested_json),
        Kind("nested config", [folder / "bundle"], nested_config),
        Kind("external data", [folder / "bundle"], external_data),
        Kind("journal link", journals, journal_link),
    ]


def audio_seeds(folder: Path) -> Iterator[Path]:
    from tests.audio import common
    from tests.conftest import write_audio

    folder.mkdir(parents=True)
    for name, options in {
        "x.wav": {},
        "24.wav": {"subtype": "PCM_24"},
        "law.wav": {"subtype": "ULAW"},
        "adpcm.wav": {"subtype": "MS_ADPCM"},
        "x.aiff": {},
        "x.au": {},
        "x.caf": {},
        "x.w64": {},
        "x.rf64": {},
        "x.flac": {},
        "x.ogg": {},
        "x.mp3": {},
        "x.opus": {"format": "OGG", "subtype": "OPUS"},
    }.items():
        yield write_audio(folder / name, 0.4, rate_hz=RATE_HZ, **options)
    for name, codec, container in (
        ("x.m4a", "aac", None),
        ("alac.m4a", "alac", None),
        ("x.aac", "aac", "adts"),
        ("x.wma", "wmav2", "asf"),
        ("x.wv", "wavpack", None),
        ("x.tta", "tta", None),
        ("x.mka", "flac", None),
        ("x.webm", "libopus", None),
        ("flac.ogg", "flac", "ogg"),
        ("x.avi", "libmp3lame", None),
        ("x.mpg", "mp2", None),
        ("x.ac3", "ac3", None),
    ):
        tags = {"artist": "A", "title": "B" * 50, "MUSICBRAINZ_TRACKID": "C" * 36}
        yield common.write_with_ffmpeg(
            folder / name, codec, 48000, 0.2, container=container, tags=tags
        )
    (folder / "x.ape").write_bytes(common.silent_ape(100_000))
    (folder / "x.dsf").write_bytes(common.dsf(np.zeros(200_000, np.float32), 2_822_400))
    yield from (folder / "x.ape", folder / "x.dsf")
    for name, content in joined_streams().items():
        (folder / name).write_bytes(content)
        yield folder / name


def joined_streams() -> dict[str, bytes]:
    """Files whose sound does not lie where their header says, each read by the bytes."""
    from tests.audio import streams
    from tests.audio.test_length import LIST, claims, voc, with_flac_total

    headed = streams.mp3(0.4, 44100, 2, True, "CONSTANT").content
    plain = streams.mp3(0.4, 22050, 1, False, "VARIABLE").content
    vorbis = streams.ogg(0.4, 48000, 1, "VORBIS").content
    flac = streams.flac(0.4, 16000, 1).content
    aiff = streams.pcm(0.4, 16000, 1, "AIFF", "PCM_16").content
    return {
        "plain.mp3": plain,
        "joined.mp3": headed + streams.id3v1() + plain + streams.apev2(50) + headed,
        "chained.ogg": vorbis + streams.ogg(0.4, 48000, 1, "OPUS").content + vorbis,
        "joined.flac": flac + with_flac_total(flac, 0),
        "quarter.wav": claims(10_000, LIST),
        "joined.wav": claims(0, LIST) + claims(10_000),
        "joined.aiff": aiff * 2,
        "blocks.voc": voc((1, b"\xa5\0" + bytes(4000)), (2, bytes(4000)), (3, b"\xff\0\xa5")),
    }


def embedding_seeds(folder: Path) -> Iterator[Kind]:
    from loev_cli.formats import FORMATS, Row, open_writer
    from tests.conftest import make_bundle
    from tests.test_formats import meta_of

    folder.mkdir(parents=True)
    bundle = make_bundle(folder / "model")
    rng = np.random.default_rng(0)
    for extension in FORMATS:
        seeds = []
        for per_window in (False, True):
            out = folder / f"{per_window}{extension}"
            meta = meta_of(bundle, per_window=per_window, tags=["artist"])
            with open_writer(str(out), meta) as writer:
                for i in range(12):
                    n = (3,) if per_window else ()
                    vectors = {
                        name: rng.standard_normal((*n, dim)).astype(np.float32)
                        for name, dim in meta["subspaces"].items()
                    }
                    starts = np.arange(3, dtype=np.float32) if per_window else None
                    writer.add(Row(f"{i:02}.mp3", 1.0, False, vectors, starts, {"artist": "é" * i}))
                writer.commit()
            seeds.append(out)
        yield Kind(extension, seeds)


def bundle_seed(folder: Path) -> Path:
    from tests.conftest import make_bundle

    return make_bundle(folder).path


def journal_seeds(folder: Path) -> Iterator[Path]:
    """A folder with an output and its journal, finished; and one of a run that was killed."""
    from loev_cli.embed.journal import Journal
    from loev_cli.embed.parts import Stamp
    from loev_cli.formats import Row
    from tests.conftest import make_bundle
    from tests.test_formats import meta_of

    meta = meta_of(make_bundle(folder.with_name("journal-model")))
    for name, finished in (("finished", True), ("killed", False)):
        (folder / name).mkdir(parents=True)
        with Journal(folder / name / "x.npz", meta) as journal:
            for i in range(8):
                vectors = {n: np.full(d, i, np.float32) for n, d in meta["subspaces"].items()}
                journal.add(Row(f"{i}.mp3", 1.0, False, vectors), Stamp(i, i))
            if finished:
                finish(journal, meta)
        (folder / name / "meta.json").write_text(json.dumps(meta))
        yield folder / name


def finish(journal: Any, meta: dict[str, Any]) -> None:
    """Write the output of a journal, as a run does in the end."""
    from loev_cli.formats import open_writer

    def commit(before_replace: Callable[[Path], None]) -> None:
        with open_writer(str(journal.out), meta, before_replace=before_replace) as writer:
            for row in journal.merged():
                writer.add(row)
            writer.commit()

    journal.settle(commit)


# ---------------------------------------------------------------- attacks


def npz_bomb(file: Path, chance: random.Random) -> None:
    """An array that claims many values, or has them: zeros, of which a compressed GB is 1 MB."""
    import io
    import zipfile

    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = chance.choice([*members, "more.npy"])
    n = chance.choice([10**7, 10**8, 10**9, 2**31, 2**63, 10**30])
    shape = chance.choice([(n,), (n, 3), (3, n), (n, 0), (1,) * 30 + (n,)])
    descr = chance.choice(["<f4", "<U1", f"<U{min(n, 2**28)}", "|b1", "<i8", "|O", "<c16"])
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": chance.random() < 0.2, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    if chance.random() < 0.2:  # few: they take a second to make
        stream.write(bytes(min(300 << 20, 4 * n)))
    method = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    if len(stream.getvalue()) > 1 << 20:
        method = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(file, "w", method) as archive:
        for other, content in (members | {name: stream.getvalue()}).items():
            archive.writestr(other, content)


def nested(chance: random.Random) -> str:
    depth = chance.choice([10, 40, 900, 10_000, 200_000])
    head, tail = chance.choice([("[", "]"), ('{"a":', "}"), ('[{"":', "}]")])
    return head * depth + "1" + tail * depth


def nested_json(file: Path, chance: random.Random) -> None:
    lines = file.read_text().splitlines()
    at = chance.randrange(len(lines))
    record = json.loads(lines[at])
    within = chance.choice([record, record["meta"], record["meta"]["subspaces"]])
    within[chance.choice([*within, "more"])] = "@"
    odd = chance.choice([nested(chance), "9" * 5000, "1e999", "-1", "null", '"\\ud800"'])
    lines[at] = json.dumps(record).replace('"@"', odd)
    file.write_text("\n".join(lines) + "\n")


def nested_config(folder: Path, chance: random.Random) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    within = chance.choice([config, config["encoder"], config["subspaces"], config["files"]])
    within[chance.choice([*within, "more"])] = "@"
    odd = chance.choice([nested(chance), "9" * 5000, "1e999", "-1", "null", "10" * 9])
    file.write_text(json.dumps(config).replace('"@"', odd))


def external_data(folder: Path, chance: random.Random) -> None:
    """A tensor somewhere in the graph whose values are elsewhere, and checksums that fit."""
    import onnx

    from tests import test_onnx_safety as places
    from tests.conftest import write_config

    model = onnx.load(folder / "model.onnx")
    names = [name for name in vars(places) if name.startswith("in_")]
    getattr(places, chance.choice([*names, "without_location", "without_flag"]))(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_config(folder)


def journal_link(folder: Path, chance: random.Random) -> None:
    """A link of either kind, or a file, in the place of one of the journal's own."""
    (folder / "victim").mkdir()
    victim = folder / "victim" / "notes"
    victim.write_bytes(VICTIM)
    journal = folder / "x.npz.journal"
    if chance.random() < 0.2:
        shutil.rmtree(journal)
        journal.symlink_to(victim.parent)
        return
    names = ["lock", "journal.json", "part-000001.rows", "part-000002.rows", "index-" + "0" * 32]
    planted = journal / chance.choice([*names, *(file.name for file in journal.iterdir())])
    planted.unlink(missing_ok=True)
    match chance.randrange(4):
        case 0:
            planted.symlink_to(victim)
        case 1:
            planted.hardlink_to(victim)
        case 2:
            planted.symlink_to(folder / "victim" / "made")
        case 3:
            planted.mkdir()


VICTIM = b"not loev's\n"


# ---------------------------------------------------------------- mutations


def mutated(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """One to six mutations after each other."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        if not data:
            break
        at = chance.randrange(len(data))
        match chance.randrange(9):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
            case 2:  # what may be a length, a count or a rate
                value = chance.choice([0, 1, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, len(data)])
                order = chance.choice(["little", "big"])
                data[at : at + 4] = value.to_bytes(4, order)  # type: ignore[arg-type]
            case 3:
                del data[at:]
            case 4:
                del data[at : at + chance.randrange(1, 64)]
            case 5:
                block = data[at : at + chance.randrange(1, 256)]
                data[at:at] = block * chance.choice([1, 2, 50])
            case 6:
                data[at : at + chance.randrange(1, 64)] = chance.randbytes(chance.randrange(64))
            case 7:
                other = chance.choice(others)
                start = chance.randrange(len(other) or 1)
                data[at : at + 128] = other[start : start + 128]
            case 8:  # in the head, where the structure is
                data[chance.randrange(min(len(data), 100))] = chance.randrange(256)
    return bytes(data)


def write_mutant(kind: Kind, others: list[bytes], to: Path, chance: random.Random) -> Path:
    """A mutant of a file, or of a folder of which one file is mutated, under ``to``."""
    if to.exists():
        shutil.rmtree(to)
    to.mkdir()
    seed = chance.choice(kind.seeds)
    mutant = to / seed.name
    if seed.is_file():
        shutil.copyfile(seed, mutant)
    else:
        shutil.copytree(seed, mutant)
    if kind.attack is not None:
        kind.attack(mutant, chance)
        # What is not mutated has to be refused, or leave others' files alone; large ones are slow.
        if chance.random() < 0.5 or kind.name in ("external data", "journal link"):
            return mutant
    if seed.is_file():
        mutant.write_bytes(mutated(mutant.read_bytes(), others, chance))
        return mutant
    files = sorted(f for f in mutant.rglob("*") if f.is_file() and f.name not in ("meta.json",))
    victim = chance.choice(files)
    victim.write_bytes(mutated(victim.read_bytes(), others, chance))
    return mutant


# ---------------------------------------------------------------- reading, in a child


def read_audio(file: Path, decoder: Any) -> str:
    from loev_cli.errors import InputError

    try:
        decoder.probe(file)
        for _ in decoder.decode(file, RATE_HZ, tags=True):
            pass
    except InputError as error:
        return "decoder died" if error.kind in ("DecoderCrash", "DecoderTimeout") else "refused"
    return "read"


def read_embeddings(path: Path) -> str:
    from loev_cli import formats

    formats.read_meta(path)
    formats.read(path)
    for _ in formats.rows(path):
        pass
    return "read"


def read_bundle(path: Path) -> str:
    from loev_cli import bundle

    found = bundle.load(path)
    found.verified(bundle.ONNX_FILE)
    found.verified(bundle.WEIGHTS_FILE)
    return "read"


def read_journal(path: Path) -> str:
    from loev_cli.embed.journal import Journal

    meta = json.loads((path / "meta.json").read_text())
    with Journal(path / "x.npz", meta) as journal:
        for _ in journal.merged():
            pass
    return "read"


def read_external(path: Path) -> str:
    read_bundle(path)
    raise AssertionError("values in another file were not seen")


def read_link(path: Path) -> str:
    victim = path / "victim" / "notes"
    try:
        return read_journal(path)
    finally:
        assert victim.read_bytes() == VICTIM, "a link was followed"
        assert [file.name for file in victim.parent.iterdir()] == ["notes"], "a link was followed"


def child() -> None:
    """Read the paths that come on stdin, one `kind<tab>path` a line, and say what came of each."""
    import resource

    from loev_cli.audio import DecoderProcess
    from loev_cli.errors import LoevError

    unpickled: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "pickle.find_class":
            unpickled.append(".".join(map(str, arguments)))

    sys.addaudithook(watch)
    import pyarrow.parquet  # noqa: F401  (what it maps does not count)

    size_n_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size_n_bytes + MEMORY_N_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    decoder = DecoderProcess(timeout_s=LIMIT_S / 2)
    readers: dict[str, Callable[[Path], str]] = {
        "audio": lambda path: read_audio(path, decoder),
        "bundle": read_bundle,
        "journal": read_journal,
        "nested config": read_bundle,
        "external data": read_external,
        "journal link": read_link,
    }
    for line in sys.stdin:
        kind, path = line.rstrip("\n").split("\t")
        unpickled.clear()
        try:
            outcome = readers.get(kind, read_embeddings)(Path(path))
        except LoevError as error:
            outcome = "refused" if "\n" not in str(error) else "FINDING more than one line"
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            outcome = f"FINDING {type(error).__name__} at {where}: {error}".replace("\n", " ")
        if unpickled:
            outcome = f"FINDING unpickled {unpickled[0]}"
        print(outcome, flush=True)


class Child:
    """The child process, started anew when it has died or hangs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, kind: str, path: Path) -> str:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        alarm = threading.Timer(2 * LIMIT_S, process.kill)
        alarm.start()
        began = time.monotonic()
        try:
            process.stdin.write(f"{kind}\t{path}\n")
            process.stdin.flush()
            outcome = process.stdout.readline().strip()
        finally:
            alarm.cancel()
        if outcome:
            took_s = time.monotonic() - began
            return outcome if took_s < LIMIT_S else f"FINDING took {took_s:.0f} s"
        process.wait()
        self._process = None
        return f"FINDING the reader died (exit code {process.returncode})"

    def close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(timeout=LIMIT_S)


# ---------------------------------------------------------------- the run


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--only", nargs="*", help="kinds, default all")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child()
        return 0
    chance = random.Random(options.seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        kinds = [k for k in make_seeds(Path(name)) if not options.only or k.name in options.only]
        others = [
            file.read_bytes()
            for kind in kinds
            for seed in kind.seeds
            for file in ([seed] if seed.is_file() else seed.rglob("*"))
            if file.is_file()
        ]
        reader = Child()
        ends = time.monotonic() + 60 * options.minutes
        while time.monotonic() < ends:
            # Audio is half of it: that is foreign code, and what anybody may have written.
            audio = [kind for kind in kinds if kind.name == "audio"]
            kind = chance.choice(audio if audio and chance.random() < 0.5 else kinds)
            mutant = write_mutant(kind, others, Path(name) / "mutant", chance)
            began = time.monotonic()
            outcome = reader.read(kind.name, mutant)
            kind.slowest_s = max(kind.slowest_s, time.monotonic() - began)
            counted = "FINDING" if outcome.startswith("FINDING") else outcome
            kind.counts[counted] += 1
            if counted in ("FINDING", "decoder died"):
                keep(mutant, options.keep, f"{kind.name} {mutant.name}: {outcome}", found)
        reader.close()
    print("| kind | seeds | inputs | " + " | ".join(OUTCOMES) + " | slowest s |")
    print("|---" * (len(OUTCOMES) + 4) + "|")
    for kind in kinds:
        cells = [str(kind.counts[outcome]) for outcome in OUTCOMES]
        row = [kind.name, str(len(kind.seeds)), str(kind.counts.total()), *cells]
        print(f"| {' | '.join(row)} | {kind.slowest_s:.1f} |")
    for what, times in found.most_common():
        print(f"{times} x {what}")
    return 1 if any(kind.counts["FINDING"] for kind in kinds) else 0


def keep(mutant: Path, folder: Path, what: str, found: Counter[str]) -> None:
    """Keep the first three inputs of each sort of finding."""
    found[what] += 1
    if found[what] > 3:
        return
    number = len(list(folder.glob("*"))) if folder.exists() else 0
    kept = folder / f"{number:04}"
    shutil.copytree(mutant.parent, kept, symlinks=True)
    (kept / "what.txt").write_text(what + "\n")


if __name__ == "__main__":
    sys.exit(main())
