"""The command as a user meets it: exit codes, one clear line, pipes and signals."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from loev_cli import __version__
from loev_cli.backends.machine import CudaDriver
from loev_cli.bundle import FORMAT_VERSION, ONNX_FILE, Bundle
from loev_cli.cli import COMMANDS, build_app, main
from loev_cli.cli._boundary import signals_raise
from loev_cli.embed import dry_run
from loev_cli.formats import read
from tests.conftest import (
    Loev,
    add_bad_files,
    command,
    environment,
    feed,
    in_process_of_its_own,
    write_audio,
    write_config,
)

posix_only = pytest.mark.skipif(os.name == "nt", reason="signals and pipes of POSIX")


# ---------------------------------------------------------------- embed


def test_embed_a_folder(loev: Loev, bundle: Bundle, library: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    done = loev("embed", library, "--out", out, "--model", bundle.path)
    assert done.code == 0
    assert done.out == ""
    (summary,) = done.lines
    assert summary.startswith("5 tracks, 0:00:12 of audio in ")
    assert " x real time; decode " in summary
    assert summary.endswith(f"%) -> {out}")
    with np.load(out, allow_pickle=False) as columns:
        assert columns["pitch"].shape == (5, 4)
    assert loev("embed", library, "--out", out, "--model", bundle.path, "--quiet").err == ""


def test_some_failed_is_exit_3(loev: Loev, bundle: Bundle, library: Path, tmp_path: Path) -> None:
    add_bad_files(library)
    out = tmp_path / "x.npz"
    done = loev("embed", library, "--out", out, "--model", bundle.path)
    assert done.code == 3
    failed = sorted(done.lines[:2])  # as they are met
    assert failed[0].startswith(f"loev: failed (open): {library / 'bad.mp3'}: ")
    assert failed[1].startswith(f"loev: failed (open): {library / 'empty.wav'}: ")
    assert done.lines[3] == f"2 files failed, listed in {out}.failures.jsonl"
    assert len(read(out).paths) == 5
    assert len(Path(f"{out}.failures.jsonl").read_text().splitlines()) == 2


def test_nothing_usable_is_exit_1(loev: Loev, bundle: Bundle, tmp_path: Path) -> None:
    add_bad_files(tmp_path)
    done = loev("embed", tmp_path, "--out", tmp_path / "x.npz", "--model", bundle.path)
    assert done.code == 1
    assert "nothing written: all 2 files failed" in done.lines[-1]
    (tmp_path / "none").mkdir()
    done = loev("embed", tmp_path / "none", "--out", tmp_path / "x.npz", "--model", bundle.path)
    assert (done.code, len(done.lines)) == (1, 1)
    assert not (tmp_path / "x.npz").exists()


def test_strict_is_exit_1_and_one_line(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    add_bad_files(library)
    out = tmp_path / "x.npz"
    done = loev("embed", library, "--out", out, "--model", bundle.path, "--strict")
    assert (done.code, len(done.lines)) == (1, 1)
    assert not out.exists()


def test_a_list_on_stdin(
    loev: Loev,
    bundle: Bundle,
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(library)
    files = ["b/same.wav", "ü é/日本 🎵.wav", "gone.wav"]
    for separator, options in (("\n", []), ("\0", ["--null"])):
        feed(monkeypatch, separator.join(files).encode())
        out = tmp_path / f"x{len(options)}.npz"
        done = loev("embed", "-", *options, "--out", out, "--model", bundle.path)
        assert done.code == 3
        assert "gone.wav: No such file" in done.lines[0]
        assert read(out).paths == files[:2]


def test_json_lines_on_stdout(loev: Loev, bundle: Bundle, library: Path) -> None:
    add_bad_files(library)
    done = loev("embed", library, "--out", "-", "--model", bundle.path)
    assert done.code == 3
    records = [json.loads(line) for line in done.out.splitlines()]
    paths = [record["path"] for record in records]
    assert paths == sorted(paths)
    assert len(paths) == 5
    assert all(len(record["tempo"]) == 3 for record in records)
    assert all(record["meta"]["model"] == "tiny" for record in records)
    assert not list(library.glob("-*"))


def test_json_lines_of_a_list_come_in_its_order(
    loev: Loev, bundle: Bundle, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library)
    files = ["short.WAV", "gone.wav", "long one.flac", "b/same.wav", "a/same.wav"]
    feed(monkeypatch, "\n".join(files).encode())
    done = loev("embed", "-", "--out", "-", "--model", bundle.path)
    paths = [json.loads(line)["path"] for line in done.out.splitlines()]
    assert paths == [file for file in files if file != "gone.wav"]


def test_dry_run(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[dry_run.__module__], "_TRIAL_S", 0.05)
    out = tmp_path / "x.npz"
    done = loev("embed", library, "--out", out, "--model", bundle.path, "--dry-run")
    assert done.code == 0
    *counted, projected = done.out.splitlines()
    assert counted == [
        "files:      5",
        "audio:      0:00:12",
        "unreadable: 0",
        "vectors:    5",
        "output:     260 B",
    ]
    assert projected.startswith("time:       about 0:0")
    assert not out.exists()
    add_bad_files(library)
    assert loev("embed", library, "--model", bundle.path, "--dry-run").code == 3


def test_running_it_again(loev: Loev, bundle: Bundle, library: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    arguments = ["embed", library, "--out", out, "--model", bundle.path]
    loev(*arguments)
    assert loev(*arguments).lines == [
        "5 files already done, 0 remaining",
        f"nothing new: 5 tracks in {out}",
    ]
    (library / "b" / "same.wav").unlink()
    write_audio(library / "new.wav")
    done = loev(*arguments)
    assert done.lines[0] == "4 files already done, 1 remaining"
    assert done.lines[1].endswith(f" -> {out}, which has 6")
    assert (
        done.lines[2] == "1 row kept for files that are not among the inputs (--prune drops them)"
    )
    assert loev(*arguments, "--prune").lines[-1] == "1 row dropped for files that no longer exist"
    done = loev(*arguments, "--hop-s", "0.1")
    assert (done.code, len(done.lines)) == (2, 1)


def test_files_that_were_passed_over_are_one_line(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    for name in ("a.jpg", "b.jpg", "notes.txt", ".hidden.txt"):
        (library / name).touch()
    arguments = ["embed", library, "--out", tmp_path / "x.npz", "--model", bundle.path]
    assert loev(*arguments).lines[-1].endswith(" not read: .jpg 2, .txt 1")
    assert loev(*arguments, "--quiet").lines == []
    for file in library.rglob("*.*"):
        if file.suffix not in (".jpg", ".txt"):
            file.unlink()
    (line,) = loev(*arguments).lines
    assert ".jpg 2, .txt 1" in line


def test_stats_name_the_stage_that_limits(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    arguments = ["embed", library, "--out", tmp_path / "x.npz", "--model", bundle.path, "--stats"]
    _, work, limit = loev(*arguments).lines
    assert work.startswith("work: decode ")
    assert limit.startswith("bottleneck: ")
    assert limit.split()[1] in ("decode", "encode", "write")


def test_log_json_is_nothing_but_json(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    add_bad_files(library)
    arguments = ["embed", library, "--out", tmp_path / "x.npz", "--model", bundle.path]
    done = loev(*arguments, "--log-json")
    assert done.code == 3
    events = [json.loads(line) for line in done.lines]
    assert [event["event"] for event in events] == ["started", "failed", "failed", "finished"]
    assert events[0]["n_tracks"] == 7
    assert {event["path"] for event in events[1:3]} == {"bad.mp3", "empty.wav"}
    assert (events[3]["n_done"], events[3]["n_failed"], events[3]["n_rows"]) == (5, 2, 5)
    assert events[3]["audio_s"] == pytest.approx(12.3)
    (event,) = map(json.loads, loev(*arguments, "--log-json", "--hop-s", "9").lines)
    assert (event["event"], "out of range" in event["text"]) == ("error", True)
    assert loev(*arguments).lines[0] == "5 files already done, 2 remaining"


def test_an_empty_shard_is_no_failure(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    only = library / "b" / "same.wav"
    codes, n_rows = [], []
    for i in (1, 2):
        out = tmp_path / f"{i}.jsonl"
        arguments = ["--out", out, "--model", bundle.path, "--shard", f"{i}/2"]
        codes.append(loev("embed", only, *arguments).code)
        n_rows.append(len(read(out).paths))
    assert codes == [0, 0]
    assert sorted(n_rows) == [0, 1]


# ---------------------------------------------------------------- bad use


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["/no/such/folder"], 2, "no such file or folder: /no/such/folder"),
        (["{in}", "--model", "nonesuch"], 2, "no model 'nonesuch'"),
        (["{in}", "--subspaces", "pich"], 2, "did you mean 'pitch'?"),
        (["{in}", "--model", "loevpp-smal"], 2, "did you mean 'loevpp-small'?"),
        (["{in}", "--subspaces", "pitch,,"], 2, "empty name"),
        (["{in}", "--out", "{tmp}/no/x.npz"], 2, "no folder {tmp}/no"),
        (["{in}", "--out", "/proc/x.npz"], 1, "cannot write /proc/x.npz"),
        (["{in}", "--out", "{tmp}/x.csv"], 2, ".npz, .parquet, .lance"),
        (["{in}", "--out", "{tmp}/precious.npz"], 2, "--overwrite"),
        (["{in}", "--hop-s", "0"], 2, "hop of 0 s is out of range"),
        (["{in}", "--hop-s", "99"], 2, "window of 0.5 s"),
        (["{in}", "--device", "cuda:99"], 2, "device cuda:99 is not available"),
        (["{in}", "--precision", "fp16"], 2, "--backend torch on a CUDA device"),
        (["{in}", "--backend", "jax"], 2, "Invalid value for '--backend': 'jax' is not one of"),
        (["{in}", "--model", ""], 2, "no model ''"),
        (["{in}", "--out", ""], 2, "name a file with --out"),
        ([""], 2, "an input is empty"),
        (["{in}", "--shard", "3/2"], 2, "invalid --shard '3/2'"),
        (["{in}", "--shard", "auto"], 2, "not running inside a Slurm, SGE or PBS array job"),
        (["{in}", "--batch-size", "0"], 2, "Invalid value for '--batch-size'"),
        (["{in}", "--sbspaces", "pitch"], 2, "No such option: --sbspaces"),
        ([], 2, "Missing argument"),
    ],
)
def test_bad_use_is_one_clear_line(
    loev: Loev,
    bundle: Bundle,
    library: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    (tmp_path / "precious.npz").write_text("not an embedding")
    full = [a.replace("{in}", str(library)).replace("{tmp}", str(tmp_path)) for a in arguments]
    for option, value in (("--out", tmp_path / "x.npz"), ("--model", bundle.path)):
        if option not in full:
            full += [option, str(value)]
    done = loev("embed", *full)
    assert done.code == code
    assert done.out == ""
    (line,) = done.lines
    assert line.startswith("loev: error: ")
    assert message.replace("{tmp}", str(tmp_path)) in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["library", "precious.npz"]


def test_without_out_it_says_so(loev: Loev, bundle: Bundle, library: Path) -> None:
    done = loev("embed", library, "--model", bundle.path)
    assert done.code == 2
    assert "--out" in done.err


def test_bad_bundles(loev: Loev, bundle: Bundle, library: Path, tmp_path: Path) -> None:
    def error_of(model: Path) -> str:
        done = loev("embed", library, "--out", tmp_path / "x.npz", "--model", model)
        assert done.code == 1
        (line,) = done.lines
        return line

    corrupt = Path(shutil.copytree(bundle.path, tmp_path / "corrupt"))
    with (corrupt / ONNX_FILE).open("r+b") as file:
        file.write(b"X")
    assert "is damaged: its checksum is not the one" in error_of(corrupt)

    newer = Path(shutil.copytree(bundle.path, tmp_path / "newer"))
    write_config(newer, format_version=FORMAT_VERSION + 1)
    assert f"has format {FORMAT_VERSION + 1}, this version of loev reads up to" in error_of(newer)

    assert "is not a model bundle" in error_of(library)


def test_an_unexpected_error_is_one_line_and_debug_shows_all(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("loev_cli.embed.engine.open_fast", bug)
    arguments = ["embed", library, "--out", tmp_path / "x.npz", "--model", bundle.path]
    done = loev(*arguments)
    assert done.code == 1
    (line,) = done.lines
    assert line.startswith("loev: error: ZeroDivisionError: oh")
    assert "--debug" in line
    done = loev(*arguments, "--debug")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "in bug" in done.err


def test_debug_says_why_there_is_no_gpu(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loev_cli.backends.ort._open_cuda", lambda *a: (None, "no such luck"))
    arguments = ["embed", library, "--out", tmp_path / "x.npz", "--model", bundle.path]
    assert "luck" not in loev(*arguments).err
    assert "not using CUDA: no such luck" in loev(*arguments, "--overwrite", "--debug").err


def test_a_gpu_that_is_not_used_is_no_secret(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loev_cli.backends.ort._open_cuda", lambda *a: (None, "no cuDNN"))
    arguments = ["embed", library, "--out", tmp_path / "x.npz", "--model", bundle.path]
    monkeypatch.setattr("loev_cli.backends.ort.cuda_driver", lambda: CudaDriver(1, None))
    done = loev(*arguments)
    assert done.code == 0
    assert done.lines[0] == "loev: warning: a GPU is present but not used: no cuDNN"
    assert "GPU" not in loev(*arguments, "--overwrite", "--device", "cpu").err


def test_control_characters_in_names_do_not_reach_the_terminal(
    loev: Loev, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    (library / "\x1b[31mred\n.wav").touch()
    done = loev("embed", library, "--out", tmp_path / "x.npz", "--model", bundle.path)
    assert done.code == 3
    assert "\x1b" not in done.err
    assert len(done.lines) == 3


# ---------------------------------------------------------------- processes


def test_the_c_libraries_are_not_heard(bundle: Bundle, tmp_path: Path) -> None:
    file = write_audio(tmp_path / "in" / "x.mp3", 5.0, rate_hz=44100)
    file.write_bytes(file.read_bytes()[:20_000])  # libmpg123 comments on such a file by itself
    add_bad_files(tmp_path / "in")
    out = tmp_path / "x.npz"
    done = in_process_of_its_own("embed", tmp_path / "in", "--out", out, "--model", bundle.path)
    assert done.code == 1
    assert len(done.lines) == 4
    assert all(line.startswith("loev: ") for line in done.lines)


@posix_only
def test_a_broken_pipe_ends_quietly(bundle: Bundle, tmp_path: Path) -> None:
    for i in range(8):  # more than a pipe holds: nobody can write it all and leave
        write_audio(tmp_path / f"{i:03}.wav", 1.0)
    options = ["--out", "-", "--model", str(bundle.path), "--hop-s", "0.001", "--per-window"]
    process = subprocess.Popen(
        command("embed", tmp_path, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["path"] == "000.wav"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 0
    process.stderr.close()


@posix_only
@pytest.mark.parametrize("closed", ["2>&-", "<&-", ">&-"])
def test_closed_streams_are_no_hindrance(
    bundle: Bundle, library: Path, tmp_path: Path, closed: str
) -> None:
    out = tmp_path / "x.npz"
    line = shlex.join(command("embed", library, "--out", out, "--model", bundle.path))
    done = subprocess.run(f"{line} {closed}", shell=True, env=environment(), timeout=60)
    assert done.returncode == 0
    assert len(read(out).paths) == 5


@posix_only
@pytest.mark.parametrize("arguments", [["models"], ["models", "loevpp-small"], ["--version"]])
def test_a_closed_stdout_is_no_hindrance_to_anything(arguments: list[str]) -> None:
    line = shlex.join(command(*arguments))
    done = subprocess.run(
        f"{line} >&-", shell=True, env=environment(), capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


@posix_only
def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """A shell ignores SIGINT for what it starts with &, so that Ctrl-C is for the foreground."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_raise():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


@posix_only
def test_the_progress_bar_is_for_terminals(bundle: Bundle, library: Path, tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    arguments = ["embed", library, "--out", tmp_path / "x.npz", "--model", bundle.path]
    done = subprocess.run(command(*arguments), stderr=theirs, env=environment(), timeout=60)
    os.close(theirs)
    with open(ours, "rb", buffering=0, closefd=True) as terminal:  # noqa: PTH123 (a descriptor)
        seen = terminal.read(100_000)
    assert done.returncode == 0
    assert b"\x1b[" in seen
    assert b"embedding" in seen


# ---------------------------------------------------------------- the other commands


def test_version(loev: Loev) -> None:
    done = loev("--version")
    assert (done.code, done.out) == (0, f"loev {__version__}\n")


def test_every_command_has_help_with_an_example(loev: Loev) -> None:
    top = loev("--help")
    assert loev() == top
    assert top.code == 0
    for name in COMMANDS:
        assert name in top.out
        done = loev(name, "--help")
        assert done.code == 0
        assert f"Example: loev {name}" in done.out


def test_nothing_in_the_help_is_cut_at_80_columns(
    loev: Loev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    app: Any = typer.main.get_command(build_app())
    commands = [[]]
    for name, of_name in app.commands.items():
        commands += [[name], *([name, sub] for sub in getattr(of_name, "commands", ()))]
    for words in commands:
        shown = loev(*words, "--help").out
        assert "…" not in shown, words
        assert max(map(len, shown.splitlines())) <= 80, words


def test_the_help_lists_what_there_is() -> None:
    from loev_cli.cli import _options
    from loev_cli.model import METHODS
    from loev_cli.model.encoders import ENCODERS
    from loev_cli.train.augment import EQUIVARIANT

    assert set(_options.METHODS.split(", ")) == set(METHODS)
    own = [name for name, kind in ENCODERS.items() if kind.encoder.__module__.startswith("loev")]
    assert _options.ENCODERS.split(", ") == own  # other tests add theirs
    assert _options.AUGMENTATIONS.split(", ") == list(EQUIVARIANT)


def test_the_help_is_that_of_all_commands(loev: Loev, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which it knows the names and their lines only."""
    shown = loev("--help")
    complete = typer.main.get_command(build_app())
    monkeypatch.setattr("loev_cli.cli._command", lambda named: complete)
    assert loev("--help") == shown


def test_every_option_says_what_it_is_for_in_a_group() -> None:
    """Square brackets are markup to rich: what stands in them would vanish from the help."""
    app = typer.main.get_command(build_app())
    for name, sub in app.commands.items():  # type: ignore[attr-defined]
        for parameter in sub.params:
            assert parameter.help, f"{name} {parameter.name}"
            assert "[" not in parameter.help, f"{name} {parameter.name}"
            if parameter.param_type_name == "option":
                assert parameter.rich_help_panel, f"{name} {parameter.name}"


@pytest.fixture
def shipped(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that ships the tiny model."""
    root = tmp_path / "models"
    shutil.copytree(bundle.path, root / "tiny")
    monkeypatch.setattr("loev_cli.bundle._shipped_root", lambda: root)
    return root


def test_models_lists_what_is_shipped(loev: Loev, shipped: Path) -> None:
    done = loev("models")
    assert done.code == 0
    header, line = done.out.splitlines()
    assert header.split() == ["name", "method", "subspaces", "window", "size", "path"]
    assert line.startswith("tiny  loev++  invariant (6), pitch (4), tempo (3)  0.5 s")
    (record,) = json.loads(loev("models", "--json").out)
    assert record["subspaces"] == {"invariant": 6, "pitch": 4, "tempo": 3}
    assert record["path"] == str(shipped / "tiny")


def test_a_card_that_the_terminal_cannot_spell(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shipped / "tiny" / "README.md").write_bytes("# tiny → 🎵\n".encode() + b"\xff")
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", ascii_only)
    with pytest.raises(SystemExit) as exit_info:
        main(["models", "tiny"])
    assert exit_info.value.code == 0
    assert ascii_only.buffer.getvalue().startswith(b"# tiny \\u2192 \\U0001f3b5\n")  # type: ignore[attr-defined]


def test_models_shows_a_card(loev: Loev, shipped: Path) -> None:
    assert loev("models", "tiny").out.startswith("# tiny")
    assert json.loads(loev("models", "tiny", "--json").out)["card"].startswith("# tiny")
    done = loev("models", "nonesuch")
    assert done.code == 2
    assert "shipped models: tiny" in done.err


def test_doctor_tells_what_runs(loev: Loev, shipped: Path) -> None:
    done = loev("doctor", "--json")
    findings = {(f["topic"], f["name"]): f for f in json.loads(done.out)}
    assert findings["version", "loev"]["detail"] == __version__
    assert "FLAC" in findings["audio", "libsndfile"]["detail"]
    assert "checksums match" in findings["model", "tiny"]["detail"]
    assert "CPUExecutionProvider" in findings["device", "ONNX Runtime"]["detail"]
    assert ("device", "ONNX CUDA") in findings
    assert ("device", "torch CUDA") in findings
    # Every extra but those of developers, whatever is installed here.
    extras = set(metadata.metadata("loev-cli").get_all("Provides-Extra") or ())
    assert {name for topic, name in findings if topic == "extra"} == extras - {
        "all",
        "docs",
        "test",
    }
    assert findings["extra", "eval"]["ok"] is True
    table = loev("doctor")
    assert table.code == done.code
    assert "libsndfile" in table.out


def test_doctor_names_what_an_extra_lacks(
    loev: Loev, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["numpy>=1", "nosuch-one[x]>=2; extra == 'tags'", "numpy>=1; extra == 'tags'"]
    monkeypatch.setattr("loev_cli.cli.doctor.metadata.requires", lambda package: lines)
    done = loev("doctor", "--json")
    (tags,) = (f for f in json.loads(done.out) if f["name"] == "tags")
    assert tags["ok"] is None
    assert "missing nosuch-one: pip install 'loev-cli[tags]'" in tags["detail"]


def test_doctor_finds_a_damaged_model(loev: Loev, shipped: Path) -> None:
    (shipped / "tiny" / ONNX_FILE).write_bytes(b"junk")
    done = loev("doctor")
    assert done.code == 1
    assert "FAULT" in done.out


def test_the_module_runs_like_the_command(bundle: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loev_cli", "--version"],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert done.stdout == f"loev {__version__}\n"


def test_idle_workers_do_not_keep_a_process_that_used_arrow() -> None:
    """joblib's would stay for five minutes after `loev compare` had said that it is done."""
    program = (
        "import time, pyarrow, joblib\n"
        "from loev_cli.cli._boundary import leave\n"
        "joblib.Parallel(n_jobs=2)(joblib.delayed(time.sleep)(0.01) for _ in range(4))\n"
        "leave(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), timeout=120)
    assert done.returncode == 7
