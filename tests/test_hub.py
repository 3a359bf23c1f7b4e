"""Models on the Hugging Face Hub: a local server that speaks its API, and its own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from loev_cli import bundle as bundles
from loev_cli.bundle import Bundle
from loev_cli.errors import UsageError
from loev_cli.formats import read
from loev_cli.storage.hub import Address, parse_address, with_front_matter
from tests.conftest import Outcome, in_process_of_its_own, make_bundle
from tests.hub_server import TOKEN, Hub, card_errors, running

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")

REPO = "someone/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and an environment of processes that only know this one."""
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # a protocol of its own for large files
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def files_of(bundle: Bundle) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.path.iterdir()}


def card_of(model: str, *options: str) -> Outcome:
    return in_process_of_its_own("models", model, *options)


def one_line(done: Outcome, code: int) -> str:
    """The only line of what failed."""
    assert done.code == code, done.err
    assert done.out == ""
    (line,) = done.lines
    assert "Traceback" not in line
    assert TOKEN not in line
    return line


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("hf://a/b", "a/b", None),
        ("hf://some-one/x_1.2@v1.0", "some-one/x_1.2", "v1.0"),
        ("hf://a/b@refs/pr/1", "a/b", "refs/pr/1"),
    ],
)
def test_addresses(text: str, repo: str, revision: str | None) -> None:
    address = parse_address(text)
    assert address == Address(repo, revision)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://a", "hf://a/b/c", "hf://a/b@", "hf://a/../b", "hf://a/b@../x", "hf://-a/b",
     "hf://a/b c", "hf://a/b@x\ny", "https://a/b"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="hf://OWNER/NAME"):
        parse_address(text)


@pytest.mark.slow
def test_a_model_is_fetched_once_and_used_offline(
    hub: Hub, bundle: Bundle, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPO, files_of(bundle) | {"train.py": b"evil", "weights.pkl": b"evil", "x.bin": b""})
    out, local = tmp_path / "hub.npz", tmp_path / "local.npz"
    done = in_process_of_its_own("embed", library, "--model", f"hf://{REPO}", "--out", out)
    assert done.code == 0, done.err
    assert in_process_of_its_own("embed", library, "--model", bundle.path, "--out", local).code == 0
    assert (read(out).vectors["pitch"] == read(local).vectors["pitch"]).all()
    fetched = {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request}
    assert fetched == {"config.json", "model.onnx", "model.safetensors", "README.md"}

    hub.requests.clear()
    assert card_of(f"hf://{REPO}").out.startswith("# tiny")
    assert not [request for request in hub.requests if "/resolve/" in request]
    hub.down = True
    assert card_of(f"hf://{REPO}").code == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert card_of(f"hf://{REPO}").code == 0


def test_a_revision_is_the_one_that_is_used(hub: Hub, bundle: Bundle, tmp_path: Path) -> None:
    first = hub.commit(REPO, files_of(bundle))
    hub.commit(REPO, files_of(make_bundle(tmp_path / "other", seed=1, name="other")), "next")
    hub.commit(REPO, files_of(make_bundle(tmp_path / "third", seed=2, name="third")))
    for revision, name in [("@" + first, "tiny"), ("@next", "other"), ("", "third")]:
        done = card_of(f"hf://{REPO}{revision}", "--json")
        assert json.loads(done.out)["name"] == name
    missing = one_line(card_of(f"hf://{REPO}@v9"), 2)
    assert f"hf://{REPO}@v9" in missing


def test_damaged_weights_are_not_used(
    hub: Hub, bundle: Bundle, library: Path, tmp_path: Path
) -> None:
    files = files_of(bundle)
    hub.commit(REPO, files | {"model.onnx": files["model.onnx"][:-1] + b"\0"})
    out = tmp_path / "emb.npz"
    done = in_process_of_its_own("embed", library, "--model", f"hf://{REPO}", "--out", out)
    assert "model.onnx is damaged" in one_line(done, 1)
    assert not out.exists()


@pytest.mark.slow
def test_errors_are_one_line(
    hub: Hub, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "hf://OWNER/NAME" in one_line(card_of("hf://nonsense"), 2)
    labels = tmp_path / "labels.csv"
    labels.write_text("path,key\na.wav,C\n")
    annotating = ("--annotate", labels, "--out", tmp_path / "annotated")
    done = in_process_of_its_own("export", "hf://someone/missing", *annotating)
    assert "HF_TOKEN" in one_line(done, 2)
    assert "HF_TOKEN" in one_line(card_of("hf://someone/missing"), 2)
    hub.commit("someone/empty", {"notes.md": b"nothing"})
    assert "config.json" in one_line(card_of("hf://someone/empty"), 1)
    hub.commit(REPO, files_of(bundle))
    hub.private.add(REPO)
    assert REPO in one_line(card_of(f"hf://{REPO}"), 2)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert card_of(f"hf://{REPO}").code == 0
    hub.down = True
    assert "cannot be reached" in one_line(card_of("hf://someone/else"), 1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in one_line(card_of("hf://someone/else"), 1)


def test_nobody_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in one_line(card_of(f"hf://{REPO}"), 1)


def test_a_pushed_model_comes_back(
    hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push = ["export", str(bundle.path), "--push", f"hf://{REPO}", "--license", "mit"]
    done = in_process_of_its_own(*push, "--private")
    assert done.code == 0, done.err
    assert f"--model hf://{REPO}" in done.err
    assert TOKEN not in done.err + done.out
    assert REPO in hub.private
    pushed = hub.commits[REPO, hub.refs[REPO, "main"]]
    local = files_of(bundle)
    assert pushed.keys() == local.keys()
    same = pushed.keys() - {bundles.CARD_FILE}
    assert {name: pushed[name] for name in same} == {name: local[name] for name in same}
    front = yaml.safe_load(pushed[bundles.CARD_FILE].decode().split("---\n")[1])
    assert front["license"] == "mit"
    assert front["library_name"] == "loev"
    assert pushed[bundles.CARD_FILE].decode().endswith(local[bundles.CARD_FILE].decode())
    assert card_of(f"hf://{REPO}").code == 0
    assert in_process_of_its_own(*push).code == 0  # again: the repository is there


@pytest.mark.slow
def test_pushes_that_are_refused(
    hub: Hub, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = ["export", str(bundle.path), "--push", f"hf://{REPO}"]
    assert "HF_TOKEN" in one_line(in_process_of_its_own(*push), 2)
    monkeypatch.setenv("HF_TOKEN", TOKEN.replace("secret", "wrong", 1))
    refused = in_process_of_its_own(*push)
    assert "HF_TOKEN" in one_line(refused, 2)
    assert "wrong" not in refused.err
    debugged = in_process_of_its_own(*push, "--debug")
    assert debugged.code == 2
    assert "wrongsecret" not in debugged.err + debugged.out
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "license" in one_line(in_process_of_its_own(*push, "--license", "my own"), 2)
    assert "v9" in one_line(in_process_of_its_own(*push[:-1], f"hf://{REPO}@v9"), 2)
    broken = make_bundle(tmp_path / "broken")
    (broken.path / "model.onnx").write_bytes(b"other")
    n_before = len(hub.commits)
    done = in_process_of_its_own("export", broken.path, "--push", f"hf://{REPO}")
    assert "model.onnx is damaged" in one_line(done, 1)
    assert len(hub.commits) == n_before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--push", "someone/tiny"], "someone/tiny"),
        (["--license", "mit"], "--license"),
        (["--private"], "--private"),
        ([], "--out"),
        (["--push", "hf://a/b", "--from-mulooc"], "--out"),
    ],
)
def test_options_of_push(loev_options: Path, options: list[str], named: str) -> None:
    assert named in one_line(in_process_of_its_own("export", loev_options, *options), 2)


@pytest.fixture
def loev_options(bundle: Bundle) -> Path:
    return bundle.path


def test_the_card_of_a_bundle() -> None:
    card = "# tiny\n"
    assert card_errors(card) == ["no front matter"]
    assert card_errors(with_front_matter(card)) == []
    assert card_errors(with_front_matter(card, "cc-by-4.0")) == []
    shipped = bundles.find("loevpp-small").path / bundles.CARD_FILE
    assert card_errors(with_front_matter(shipped.read_text(encoding="utf-8"), "mit")) == []
    card = "---\nlicense: cc0-1.0\ntags: [techno, music]\nlanguage: en\n---\n\n# Mine\n"
    front = yaml.safe_load(with_front_matter(card).split("---\n")[1])
    assert front["license"] == "cc0-1.0"
    assert front["language"] == "en"
    assert front["tags"][:2] == ["techno", "music"]
    assert front["tags"].count("music") == 1
    with pytest.raises(UsageError, match="front matter"):
        with_front_matter("---\n- a list\n---\n# Mine\n")
