"""``loev ab``: which of two searches is better, from judged queries to real listeners."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loev_cli.cli import _options as options
from loev_cli.cli._console import plural, say, show, table
from loev_cli.defaults import AB_POWER, N_HITS
from loev_cli.errors import needs_extra

if TYPE_CHECKING:
    from loev_cli.ab.report import Decision

ab = typer.Typer()
_testing = options.panel("Test")

_SIDE = (
    "a file of 'loev embed' or a folder of 'loev index', and perhaps how it is searched: "
    "emb.npz, emb.npz@tempo, emb.npz@invariant=1,tempo=0.5."
)
_A = Annotated[str, typer.Argument(metavar="A", help=f"The search in use: {_SIDE}")]
_B = Annotated[str, typer.Argument(metavar="B", help="The one to try, of the same tracks.")]
_Out = Annotated[
    Path, options.output(help="Folder for report.html and results.json.", metavar="FOLDER")
]
_Overwrite = Annotated[
    bool, options.output("--overwrite", help="Replace what is in --out, whoever made it.")
]
_K = Annotated[int, options.searching("-k", min=1, help="Results per query.", metavar="K")]


@ab.callback()
def _top() -> None:
    """Compare two searches: judged queries, interleaved lists, an A/B test.

    Example: loev ab offline emb.npz emb.npz@tempo --judged judged.csv --out decision
    """


@ab.command()
def offline(
    context: typer.Context,
    a: _A,
    b: _B,
    judged: Annotated[
        Path,
        _testing(
            help="CSV of query, path, and perhaps relevance (0, 1, 2, ...; default 1) and group.",
            metavar="CSV",
        ),
    ],
    out: _Out,
    k: _K = N_HITS,
    overwrite: _Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """nDCG and recall on judged queries, with paired tests; TREC runs and qrels.

    Example: loev ab offline old.npz new.npz --judged judged.csv --out decision
    """
    with needs_extra("loev ab", "eval"):
        from loev_cli.ab import offline as job
        from loev_cli.ab import report
        from loev_cli.ab.sides import open_sides

    options.refuse_repeats(context)
    more = (*job.RUN_FILES, job.QRELS_FILE)
    report.check_out(out, "offline", inputs=[judged], overwrite=overwrite, more=more)
    sides = open_sides(a, b)
    decision, files = job.compare(*sides, job.read_judged(judged, sides[0]), k)
    _finish(context, decision, out, quiet=quiet, files=files)


@ab.command()
def interleave(
    context: typer.Context,
    a: _A,
    b: _B,
    requests: Annotated[
        Path,
        typer.Argument(
            metavar="REQUESTS",
            help='JSON lines of {"query": PATH, "session": NAME}, one for each list to show.',
        ),
    ],
    out: Annotated[
        Path,
        options.output(
            help="Log to add the lists to, as JSON lines; those of clicks go to it or to a file "
            "of their own.",
            metavar="JSONL",
        ),
    ],
    k: _K = N_HITS,
    seed: Annotated[
        int | None,
        options.running(
            min=0, help="Seed of the draft's coin; by default another every time.", metavar="S"
        ),
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Lists of both searches by team draft, to show to listeners.

    Example: loev ab interleave emb.npz emb.npz@tempo requests.jsonl --out lists.jsonl
    """
    with needs_extra("loev ab", "eval"):
        import numpy as np

        from loev_cli.ab import interleave as job
        from loev_cli.ab.sides import open_sides
    from loev_cli.storage.replacing import check_no_input

    options.refuse_repeats(context)
    check_no_input(out, [requests])
    sides = open_sides(a, b)
    rng = np.random.default_rng(seed)
    lists = [
        job.drawn_list(*sides, sides[0].path_of(query), session, k, rng)
        for query, session in job.requests(requests)
    ]
    job.Log(out).add(*lists)
    if not quiet:
        say(f"{plural(len(lists), 'list')} -> {out}")


@ab.command()
def clicks(
    context: typer.Context,
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG...", help="Shown lists, and clicks: JSON lines, in one file or several."
        ),
    ],
    out: _Out,
    overwrite: _Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Which search listeners prefer, from the log of interleaved lists and clicks.

    Example: loev ab clicks lists.jsonl clicks.jsonl --out decision
    """
    with needs_extra("loev ab", "eval"):
        from loev_cli.ab import interleave as job
        from loev_cli.ab import report

    options.refuse_repeats(context)
    report.check_out(out, "clicks", inputs=logs, overwrite=overwrite)
    _finish(context, job.decide(job.read_log(logs)), out, quiet=quiet)


@ab.command()
def plan(
    context: typer.Context,
    measure: Annotated[
        str,
        _testing(
            help="The main measure: its mean now, the smallest change worth it, and its standard "
            "deviation between units, which a share of units (0 or 1 each) does not need.",
            metavar="NAME:BASELINE:CHANGE[:SD]",
        ),
    ],
    units_per_day: Annotated[
        int, _testing(min=1, help="Listeners or sessions a day.", metavar="N")
    ],
    out: _Out,
    guardrail: Annotated[
        list[str] | None,
        _testing(
            help="A measure that must not get worse: CHANGE is the largest that is harmless; may "
            "be given several times.",
            metavar="NAME:BASELINE:CHANGE[:SD]",
        ),
    ] = None,
    power: Annotated[
        float, _testing(min=0.5, max=0.999, help="Of showing the change.", metavar="P")
    ] = AB_POWER,
    overwrite: _Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """The size of an A/B test that may be looked at every day, and its decision rule.

    Example: loev ab plan --measure success:0.30:+0.02 --guardrail minutes:31:-1:22
    --units-per-day 900 --out plan
    """
    with needs_extra("loev ab", "eval"):
        from loev_cli.ab import experiment as job
        from loev_cli.ab import report

    options.refuse_repeats(context)
    report.check_out(out, "plan", inputs=(), overwrite=overwrite)
    guarded = [job.parse_measure(text) for text in guardrail or []]
    planned = job.plan(job.parse_measure(measure), guarded, power, units_per_day)
    _finish(context, job.describe(planned, units_per_day), out, quiet=quiet)


@ab.command()
def look(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="CSV of arm (A or B), day (2026-11-29), the plan's measures, and perhaps unit; "
            "one row per unit.",
        ),
    ],
    plan: Annotated[Path, _testing(help="Folder of 'loev ab plan'.", metavar="FOLDER")],
    out: _Out,
    overwrite: _Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Decide from the data so far: ship B, stop, keep A, or go on.

    Example: loev ab look units.csv --plan plan --out decision
    """
    with needs_extra("loev ab", "eval"):
        from loev_cli.ab import experiment as job
        from loev_cli.ab import report

    options.refuse_repeats(context)
    report.check_out(out, "look", inputs=[data, plan / report.JSON_FILE], overwrite=overwrite)
    planned = job.read_plan(plan)
    found = job.looks(planned, job.read_data(data, planned))
    _finish(context, job.decide(planned, found), out, quiet=quiet)


def _finish(
    context: typer.Context,
    decision: Decision,
    out: Path,
    *,
    quiet: bool,
    files: dict[str, str] | None = None,
) -> None:
    """The table and the verdict on stdout, the page in its folder."""
    from loev_cli.ab import report

    command = shlex.join(["loev", *context.obj])
    report.write(decision, out, command=command, files=files)
    show(table(list(decision.header), [list(row) for row in decision.rows]))
    show(decision.verdict)
    if not quiet:
        for note in filter(None, decision.notes):
            say(note)
        say(f"-> {out / report.HTML_FILE}")
