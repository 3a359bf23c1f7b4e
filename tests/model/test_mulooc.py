"""Checkpoints of the research code: read whatever surrounds the weights, run nothing of it."""

from __future__ import annotations

import os
import pathlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loev_cli import bundle as bundles
from loev_cli.backends import open_encoder
from loev_cli.errors import UsageError
from loev_cli.model.mulooc import MuloocWeights, build_mulooc, mulooc_names, read_mulooc
from tests.conftest import Loev
from tests.reference.mulooc_weights import Case, mulooc_weights, tensor_shapes

REFERENCE = Path(__file__).parent.parent / "reference" / "sf_nfnet.npz"


def small_weights(case: Case = "split", n_heads: int = 3) -> dict[str, torch.Tensor]:
    """All names; of the right shape only what reading looks at."""
    heads = tuple(f"head{i}" for i in range(n_heads))
    names = mulooc_names(heads, is_split=case == "split")
    dims = {"0": (512, 1), "2": (128, 1)}
    return {
        name: torch.full(dims[name.split(".")[2]] if name.startswith("heads.") else (1,), 1.0 + i)
        for i, name in enumerate(names)
    }


def save(file: Path, state: dict[str, torch.Tensor], **more: Any) -> Path:
    torch.save({"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.4"} | more, file)
    return file


class Foreign:
    """A class of the training code, which is not installed where the weights are read."""

    def __init__(self, value: int) -> None:
        self.value = value


class Malicious:
    """Unpickled in the usual way, it runs a command."""

    def __init__(self, marker: Path, function: Any) -> None:
        self.marker = marker
        self.function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, (f"touch {self.marker}",)


@pytest.mark.parametrize("case", ["split", "shared"])
@pytest.mark.parametrize(
    ("encoder", "heads"),
    [("", ""), ("model.", "model."), ("net._orig_mod.", "net._orig_mod.")],
)
def test_prefixes_are_found(tmp_path: Path, case: Case, encoder: str, heads: str) -> None:
    weights = small_weights(case)
    state = {
        (encoder if name.startswith("encoder.") else heads) + name: tensor
        for name, tensor in weights.items()
    }
    state["melgram.spectrogram.window"] = torch.ones(400)
    read = read_mulooc(save(tmp_path / "x.ckpt", state))
    assert read.tensors.keys() == weights.keys()
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in weights.items())
    assert read.is_split == (case == "split")
    assert (read.n_heads, read.head_dims) == (3, (512, 128))
    assert read.left_out == ("melgram.spectrogram.window",)


def test_an_encoder_apart_from_its_heads_and_a_bare_state_dict(tmp_path: Path) -> None:
    weights = small_weights()
    renamed = {name.replace("encoder.", "trunk.", 1): x for name, x in weights.items()}
    torch.save(renamed, tmp_path / "x.pt")
    assert read_mulooc(tmp_path / "x.pt").tensors.keys() == weights.keys()


@pytest.mark.parametrize(
    ("case", "n_heads", "method"),
    [("split", 4, "loev++"), ("split", 1, "loev++"), ("shared", 3, "loev"), ("shared", 1, "cl")],
)
def test_the_method_follows_from_the_names(
    tmp_path: Path, case: Case, n_heads: int, method: str
) -> None:
    read = read_mulooc(save(tmp_path / "x.ckpt", small_weights(case, n_heads)))
    assert (read.method, read.n_heads) == (method, n_heads)


def test_foreign_classes_do_not_keep_the_weights_from_being_read(tmp_path: Path) -> None:
    hyper_parameters = {
        "config": Foreign(3),
        "counts": defaultdict(list, a=[1]),
        "path": pathlib.PurePosixPath("data"),
        "optimizer": torch.optim.AdamW,
        "layer": torch.nn.Linear(2, 2),
    }
    allowed_before = torch.serialization.get_safe_globals()
    file = save(tmp_path / "x.ckpt", small_weights(), hyper_parameters=hyper_parameters)
    read = read_mulooc(file)
    assert read.tensors.keys() == small_weights().keys()
    assert f"{__name__}.Foreign" in read.foreign
    allowed_after = torch.serialization.get_safe_globals()
    assert set(allowed_after) == set(allowed_before), "no stand-in is left behind"


@pytest.mark.parametrize("function", [os.system, eval, exec, __import__])
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, function: Any) -> None:
    marker = tmp_path / "ran"
    bomb = Malicious(marker, function)
    file = save(tmp_path / "x.ckpt", small_weights(), hyper_parameters={"bomb": bomb})
    if function is os.system:  # torch never lets these in, under any name
        with pytest.raises(UsageError, match="without executing code"):
            read_mulooc(file)
    else:
        assert read_mulooc(file).foreign == (f"builtins.{function.__name__}",)
    assert not marker.exists()


def test_a_tensor_that_is_code_is_not_a_tensor(tmp_path: Path) -> None:
    state: dict[str, Any] = small_weights()
    state["encoder.slow_stem.layers.0.weight"] = Malicious(tmp_path / "ran", exec)
    with pytest.raises(UsageError, match="0 tensors 'slow_stem"):
        read_mulooc(save(tmp_path / "x.ckpt", state))


def test_a_truncated_file_and_no_file(tmp_path: Path) -> None:
    file = save(tmp_path / "x.ckpt", small_weights())
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UsageError, match="damaged"):
        read_mulooc(file)
    file.write_bytes(b"")
    with pytest.raises(UsageError, match="damaged"):
        read_mulooc(file)
    with pytest.raises(UsageError, match="no checkpoint"):
        read_mulooc(tmp_path / "none.ckpt")


def test_another_architecture(tmp_path: Path) -> None:
    state = torch.nn.Linear(3, 3).state_dict()
    with pytest.raises(UsageError, match=r"not a MuLOOC checkpoint.*first tensors: weight"):
        read_mulooc(save(tmp_path / "x.ckpt", state))
    with pytest.raises(UsageError, match="no state_dict"):
        torch.save([1, 2], tmp_path / "list.pt")
        read_mulooc(tmp_path / "list.pt")
    two = {**small_weights(), **{f"ema.{k}": v for k, v in small_weights().items()}}
    with pytest.raises(UsageError, match="has 2 tensors"):
        read_mulooc(save(tmp_path / "two.ckpt", two))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder.fast_layers.1.blocks.7.skip_path.1.conv.weight": (3,)}, "is unexpected"),
        ({"encoder.fusion_layers.2.conv1.conv.weight": None}, "is missing"),
        ({"encoder.slow_stem.layers.0.weight": (16, 2, 3, 1)}, r"is \(16, 2, 3, 1\), not \(16, 1,"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, tuple[int, ...] | None], says: str) -> None:
    shapes: dict[str, tuple[int, ...] | None] = {**tensor_shapes("shared"), **change}
    tensors = {k: torch.zeros(()).expand(v) for k, v in shapes.items() if v is not None}
    weights = MuloocWeights(tensors, False, 3, (512, 128))
    with pytest.raises(UsageError, match=f"{next(iter(change))} {says}"):
        build_mulooc(weights, ("pitch", "tempo"), Path("x.ckpt"))


@pytest.mark.parametrize(
    ("augs", "says"),
    [
        (("pitch",), "3 heads, `invariant` and 2 more; --augs names 1"),
        (("pitch", "pitch"), "'pitch' is not a valid, unique head name"),
        (("pitch", "invariant"), "'invariant' is not a valid"),
        (("pitch", "a.b"), "'a.b' is not a valid"),
        (("pitch", "global"), "'global' is not a valid"),
    ],
)
def test_heads_are_named_once_each(augs: tuple[str, ...], says: str) -> None:
    weights = MuloocWeights({}, True, 3, (512, 128))
    with pytest.raises(UsageError, match=says):
        build_mulooc(weights, augs, Path("x.ckpt"))


@pytest.mark.slow
def test_a_checkpoint_becomes_a_bundle_that_gives_its_figures(tmp_path: Path, loev: Loev) -> None:
    state = {f"model.{name}": tensor for name, tensor in mulooc_weights("shared").items()}
    file = save(tmp_path / "x.ckpt", state, hyper_parameters={"net": Foreign(1)})
    done = loev("export", "--from-mulooc", file, "--out", tmp_path / "theirs")
    assert done.code == 0, done.err
    assert done.lines == [
        f"not imported, not run: 1 name ({__name__}.Foreign)",
        f"theirs: loev, heads invariant, pitch, tempo -> {tmp_path / 'theirs'}",
    ]
    bundle = bundles.load(tmp_path / "theirs")
    assert bundle.subspaces == {"invariant": 128, "pitch": 128, "tempo": 128, "global": 1728}
    assert "mean is 0" in (bundle.path / "README.md").read_text()
    encoder = open_encoder(bundle, backend="onnx", device="cpu", precision="fp32")
    with np.load(REFERENCE) as reference:
        vectors = encoder.encode(reference["wave"])
        error = abs(vectors["global"] - reference["shared_encoded"]).max()
        assert error < 1e-4 * abs(reference["shared_encoded"]).max()
        for i, head in enumerate(("invariant", "pitch", "tempo")):
            projected = reference["shared_projected"][i]
            projected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
            assert abs(vectors[head] - projected).max() < 1e-4


def test_the_command_says_what_is_wrong(tmp_path: Path, loev: Loev) -> None:
    file = save(tmp_path / "x.ckpt", small_weights("split", 4))
    export = ("export", file, "--out", tmp_path / "bundle")
    for arguments, says in [
        (("--augs", "pitch"), "--augs needs --from-mulooc"),
        (("--from-mulooc",), "has 4 heads"),
        (("--from-mulooc", "--augs", "a,b,c"), "does not match sf-nfnet-f0"),
    ]:
        done = loev(*export, *arguments)
        assert done.code == 2 and len(done.lines) == 1 and says in done.err
    assert not (tmp_path / "bundle").exists()
