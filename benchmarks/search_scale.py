"""Search among a million tracks: recall, latency, memory, and how long the index takes to build.

    loev embed FOLDER... --per-window --hop-s 1 --out windows.npz
    python benchmarks/search_scale.py [--windows windows.npz] [--n 1000000] [--queries 200]
        [--dir FOLDER] [--peers]

Makes a library of N rows, runs `loev index`, and in a process of its own asks for the 10 nearest of
rows drawn at random, themselves left out; what comes is compared with the exact answer.

With --windows a row is made of real embeddings: windows of three tracks, mixed by weights drawn
from Dirichlet(1/2), the same in all subspaces, and noise of a twentieth of the windows' standard
deviation: most rows lie near a real window or on the way from one to another, as densely as N says.
With --apart every subspace has windows of its own, so that who is near in one is nowhere in
another. Without --windows rows are independent Gaussians, 3 subspaces of 256: they have no
neighbors but by chance, which is as hard as it gets. The similarities of the 1st and the 10th
neighbor, which are printed, tell how far apart these are.

--peers builds indexes of FAISS and USearch over the same rows in memory, and reads the same number
of candidates from them. On a busy machine the CPU time is the figure to go by.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from loev_cli.formats import Meta, read
from loev_cli.formats.tables import schema_of
from loev_cli.search import database as db
from loev_cli.search.find import RowQuery
from loev_cli.search.library import Query, unit

GAUSSIAN: Meta = {
    "format_version": 1,
    "model": "gaussian",
    "model_sha256": "0" * 64,
    "window_s": 10.24,
    "hop_s": 5.12,
    "subspaces": dict.fromkeys(("invariant", "pitch", "tempo"), 256),
}
K = 10
N_MIXED = 3
NOISE = 0.05
BLOCK = 10_000
WARM_UP = 20

Block = dict[str, np.ndarray]
Weights = dict[str, float]


class Source:
    """Rows of a library, in blocks, the same every time."""

    def __init__(self, windows: Path | None, n: int, *, apart: bool) -> None:
        self.n, self.apart = n, apart
        self.file = None if windows is None else read(windows)
        meta = GAUSSIAN if self.file is None else self.file.meta
        self.meta: Meta = {**meta, "pooling": "mean"}
        self.dims: dict[str, int] = meta["subspaces"]
        if self.file is not None:
            track = self.file.track
            self.starts = np.searchsorted(track, np.arange(len(self.file.paths)))
            self.counts = np.bincount(track, minlength=len(self.file.paths))

    def blocks(self) -> Iterator[tuple[int, Block]]:
        for start in range(0, self.n, BLOCK):
            rng = np.random.default_rng([7, start])
            size = min(BLOCK, self.n - start)
            yield start, self._gaussian(rng, size) if self.file is None else self._mixed(rng, size)

    def _gaussian(self, rng: np.random.Generator, size: int) -> Block:
        return {
            name: rng.standard_normal((size, dim), np.float32) for name, dim in self.dims.items()
        }

    def _mixed(self, rng: np.random.Generator, size: int) -> Block:
        assert self.file is not None
        found: Block = {}
        for name, x in self.file.vectors.items():
            if self.apart or not found:
                tracks = rng.integers(len(self.counts), size=(size, N_MIXED))
                row = self.starts[tracks] + rng.integers(self.counts[tracks])
                weight = rng.dirichlet([0.5] * N_MIXED, size).astype(np.float32)
            noise = rng.standard_normal((size, x.shape[1]), np.float32) * x.std(axis=0)
            found[name] = np.einsum("nm,nmd->nd", weight, x[row]) + np.float32(NOISE) * noise
        return found

    def weights(self) -> list[Weights]:
        """What is asked for: one subspace, several, and away from one."""
        a, b, c, *_ = self.dims
        return [
            *({name: 1.0} for name in self.dims),
            {c: -1.0},
            {a: 1.0, c: 1.0},
            {a: 1.0, c: 0.5, b: -0.3},
            {b: 1.0, a: -1.0},
            dict.fromkeys(self.dims, -1.0),
        ]


def path_of(row: int) -> str:
    return f"artist {row // 100:05}/{row:07}.mp3"


def tables(source: Source) -> pa.RecordBatchReader:
    """The rows as those of an embedding file."""
    meta = {key: value for key, value in source.meta.items() if key not in ("tags", "annotations")}
    schema = schema_of(meta)

    def batches() -> Iterator[pa.RecordBatch]:
        for start, block in source.blocks():
            size = len(next(iter(block.values())))
            vectors = [
                pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
                for x in block.values()
            ]
            first = [
                pa.array([path_of(row) for row in range(start, start + size)]),
                pa.array(np.full(size, 200, np.float32)),
                pa.array(np.zeros(size, np.bool_)),
            ]
            yield pa.RecordBatch.from_arrays([*first, *vectors], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def write_library(out: Path, source: Source) -> None:
    lance.write_dataset(tables(source), str(out))


class Exact:
    """The true answers: per weights and query the rows of the 10 nearest, and their scores."""

    def __init__(self, source: Source, database: db.Database, rows: np.ndarray) -> None:
        centers = database.centers
        found = [database.query_of(RowQuery(path_of(row), -1)) for row in rows.tolist()]
        zeros = {name: np.zeros_like(center) for name, center in centers.items()}
        asked = {n: unit(np.stack([x[n] for x in found]), zeros[n])[0] for n in centers}
        shape = len(source.weights()), len(rows), K
        self.rows, self.scores = np.full(shape, -1), np.full(shape, -np.inf, np.float32)
        for start, block in source.blocks():
            similarity = {n: asked[n] @ unit(x, centers[n])[0].T for n, x in block.items()}
            mine = np.flatnonzero((rows >= start) & (rows < start + BLOCK))
            for i, weights in enumerate(source.weights()):
                shares = Query(weights).shares
                score = sum(np.float32(share) * similarity[n] for n, share in shares.items())
                score[mine, rows[mine] - start] = -np.inf
                new = np.argpartition(-score, K, axis=1)[:, :K]
                both = np.concatenate([self.rows[i], new + start], axis=1)
                theirs = np.take_along_axis(score, new, axis=1)
                values = np.concatenate([self.scores[i], theirs], axis=1)
                best = np.argsort(-values, axis=1)[:, :K]
                self.rows[i] = np.take_along_axis(both, best, axis=1)
                self.scores[i] = np.take_along_axis(values, best, axis=1)

    def recall(self, i: int, found: list[list[int]]) -> float:
        """Of the i-th weights: the share of the 10 nearest that were found."""
        pairs = zip(found, self.rows[i].tolist(), strict=True)
        return float(np.mean([len(set(ours) & set(theirs)) / K for ours, theirs in pairs]))


def timed(ask: Callable[[int], list[int]], rows: list[int]) -> dict[str, Any]:
    """Answers to queries, and what each took."""
    found: dict[str, Any] = {"answers": [], "ms": [], "cpu_ms": []}
    for i, row in enumerate([*rows[:WARM_UP], *rows]):
        began, cpu_began = time.perf_counter(), time.process_time()
        answer = ask(row)
        ms = 1000 * (time.perf_counter() - began)
        if i == 0:
            found["first_ms"] = ms
        if i >= WARM_UP:
            found["answers"].append(answer)
            found["ms"].append(ms)
            found["cpu_ms"].append(1000 * (time.process_time() - cpu_began))
    return found


def ask(folder: Path, rows: list[int], all_weights: list[Weights]) -> dict[str, Any]:
    """In the process that searches: answers, milliseconds, and its peak memory."""
    began = time.perf_counter()
    database = db.Database(folder)
    opened_s = time.perf_counter() - began

    def search(weights: Weights, row: int) -> list[int]:
        path = path_of(row)
        asked = database.query_of(RowQuery(path, -1))
        hits = database.search(asked, Query(weights, K, exclude=frozenset({path})))
        return [int(hit.path[-11:-4]) for hit in hits]

    found = [timed(lambda row, w=w: search(w, row), rows) for w in all_weights]  # type: ignore[misc]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"opened_s": opened_s, "peak_mb": peak_mb, "found": found}


def line(label: str, recall: float, found: dict[str, Any]) -> None:
    p50, p95 = np.percentile(found["ms"], [50, 95])
    cpu = np.median(found["cpu_ms"])
    print(
        f"| {label} | {recall:.3f} | {p50:.1f} | {p95:.1f} | {cpu:.1f} | {found['first_ms']:.0f} |",
        flush=True,
    )


def text_of(weights: Weights) -> str:
    return "`" + ",".join(f"{name}={weight:g}" for name, weight in weights.items()) + "`"


def peers(source: Source, centers: Block, rows: list[int], exact: Exact) -> None:
    """FAISS and USearch on the same units, with as many candidates, ranked in float16."""
    import faiss
    import usearch.index

    blocks = (db.units({n: x - centers[n] for n, x in b.items()}) for _, b in source.blocks())
    x = np.concatenate([block.astype(np.float16) for block in blocks])
    dim, n_found = x.shape[1], max(db._CANDIDATES_PER_HIT * K, db._FEWEST_CANDIDATES)
    n_lists = max(1, len(x) // 4000)

    def of_faiss(index: Any) -> Callable[[np.ndarray], np.ndarray]:
        index.train(x[:: max(1, len(x) // 100_000)].astype(np.float32))
        for start in range(0, len(x), BLOCK):
            index.add(x[start : start + BLOCK].astype(np.float32))
        if hasattr(index, "nprobe"):
            index.nprobe = n_lists
        return lambda q: index.search(q[None], n_found)[1][0]

    def of_usearch() -> Callable[[np.ndarray], np.ndarray]:
        index = usearch.index.Index(ndim=dim, metric="ip", dtype="i8", expansion_search=400)
        index.add(np.arange(len(x)), x.astype(np.float32))
        return lambda q: index.search(q, n_found).keys.astype(np.int64)

    flat = faiss.IndexFlatIP(dim)
    made = {
        "FAISS PQ, 4 bits per 2 values": lambda: of_faiss(
            faiss.IndexPQFastScan(dim, dim // 2, 4, faiss.METRIC_INNER_PRODUCT)
        ),
        "FAISS RaBitQ, 2 bits": lambda: of_faiss(
            faiss.IndexIVFRaBitQFastScan(
                flat, dim, n_lists, faiss.METRIC_INNER_PRODUCT, 32, True, 2
            )
        ),
        "USearch HNSW, 8 bits": of_usearch,
    }
    for label, make in made.items():
        began, cpu_began = time.perf_counter(), time.process_time()
        search = make()
        built_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        print(f"\n{label}: built in {built_s:.0f} s ({cpu_s:.0f} s of CPU time)")
        for i, weights in enumerate(source.weights()):
            shares = Query(weights).shares

            def answer(row: int, shares: Weights = shares, search: Any = search) -> list[int]:
                at, parts = 0, []
                for name, width in source.dims.items():
                    part = x[row, at : at + width].astype(np.float32)
                    parts.append(np.float32(shares.get(name, 0)) * part)
                    at += width
                q = np.pad(np.concatenate(parts), (0, dim - at))
                found = search(q)
                found = found[(found != row) & (found >= 0)]
                return found[np.argsort(-(x[found].astype(np.float32) @ q))[:K]].tolist()

            found = timed(answer, rows)
            line(text_of(weights), exact.recall(i, found["answers"]), found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=Path, help="a file of loev embed --per-window")
    parser.add_argument("--apart", action="store_true", help="subspaces of different windows")
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path, help="keep everything there; default: a temporary one")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--peers", action="store_true", help="FAISS and USearch too")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        print(json.dumps(ask(options.ask, *json.load(sys.stdin))))
        return
    source = Source(options.windows, options.n, apart=options.apart)
    rows = np.random.default_rng(7).choice(options.n, options.queries, replace=False)
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        run(options.dir or Path(scratch), source, rows, with_peers=options.peers)


def run(folder: Path, source: Source, rows: np.ndarray, *, with_peers: bool) -> None:
    emb, made = folder / "emb.lance", folder / "db"
    if not emb.exists():
        write_library(emb, source)
    if not made.exists():
        began = time.perf_counter()
        command = [sys.executable, "-m", "loev_cli", "index", str(emb), "--db", str(made)]
        subprocess.run(command, check=True)
        built_s = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"built in {built_s:.0f} s ({used.ru_utime + used.ru_stime:.0f} s of CPU time), "
            f"peak memory {used.ru_maxrss / 1000:.0f} MB",
            flush=True,
        )
    n_bytes = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    of_index = sum(file.stat().st_size for file in made.rglob("_indices/**/*") if file.is_file())
    print(f"{source.n} rows: {n_bytes / 1e6:.0f} MB on disk, {of_index / 1e6:.0f} MB of it indexes")
    done = subprocess.run(
        [sys.executable, __file__, "--ask", str(made)],
        input=json.dumps([rows.tolist(), source.weights()]),
        capture_output=True,
        text=True,
        check=True,
    )
    asked = json.loads(done.stdout)
    print(f"searching: opened in {asked['opened_s']:.2f} s, peak memory {asked['peak_mb']:.0f} MB")
    database = db.Database(made)
    exact = Exact(source, database, rows)
    first, last = np.median(exact.scores[..., 0], axis=1), np.median(exact.scores[..., -1], axis=1)
    print("scores of the 1st and 10th neighbor, median:")
    for weights, near, far in zip(source.weights(), first, last, strict=True):
        print(f"  {text_of(weights)}: {near:.2f}, {far:.2f}")
    print("\n| by | recall@10 | p50, ms | p95, ms | CPU time, p50, ms | first, ms |")
    print("|---|---|---|---|---|---|")
    for i, (weights, found) in enumerate(zip(source.weights(), asked["found"], strict=True)):
        line(text_of(weights), exact.recall(i, found["answers"]), found)
    if with_peers:
        peers(source, database.centers, rows.tolist(), exact)


if __name__ == "__main__":
    main()
