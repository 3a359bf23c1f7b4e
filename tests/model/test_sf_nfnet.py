"""The paper's encoder against the figures of its research code; examples are independent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from loev_cli.errors import UsageError
from loev_cli.model import LoevModel, ModelSpec
from loev_cli.model.encoders.sf_nfnet import Block, SfNfnetF0
from loev_cli.model.frontend import MelConfig
from loev_cli.model.layers import fold_weights
from loev_cli.model.mulooc import MuloocWeights, build_mulooc, mulooc_names
from tests.reference.mulooc_weights import Case, mulooc_weights, tensor_shapes

REFERENCE = Path(__file__).parent.parent / "reference" / "sf_nfnet.npz"
HEADS = ("invariant", "pitch", "tempo")
CASES: tuple[Case, ...] = ("split", "shared")


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model(case: Case) -> LoevModel:
    """With the weights that the reference figures were computed with."""
    weights = MuloocWeights(mulooc_weights(case), case == "split", 3, (512, 128))
    return build_mulooc(weights, HEADS[1:], Path("reference"))


@pytest.fixture(scope="module")
def reference() -> Iterator[dict[str, np.ndarray]]:
    with np.load(REFERENCE) as file:
        yield dict(file)


def relative_error(got: torch.Tensor, expected: np.ndarray) -> float:
    """Distance over length, the worst of the rows."""
    difference = np.linalg.norm(got.numpy() - expected, axis=-1)
    return float((difference / np.linalg.norm(expected, axis=-1)).max())


def test_every_tensor_of_the_research_code_has_its_place(model: LoevModel, case: Case) -> None:
    names = mulooc_names(HEADS, is_split=case == "split")
    shapes = tensor_shapes(case)
    assert names.keys() == shapes.keys()
    ours = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.startswith("standardise.")
    }
    assert ours == {own: shapes[name] for name, own in names.items()}


def test_encoded_and_projected_are_those_of_the_research_code(
    model: LoevModel, case: Case, reference: dict[str, np.ndarray]
) -> None:
    encoded, projected = reference[f"{case}_encoded"], reference[f"{case}_projected"]
    features = torch.from_numpy(reference["melgram_db"])
    with torch.inference_mode():
        projections, embeddings = model.project(features)
    branches = dict(zip(HEADS, encoded, strict=True)) if case == "split" else {"global": encoded}
    for branch, expected in branches.items():
        assert relative_error(embeddings[branch], expected) < 1e-5
    for head, expected in zip(HEADS, projected, strict=True):
        assert relative_error(projections[head], expected) < 1e-5


@pytest.mark.parametrize("case", ["shared"], indirect=True)
def test_so_they_are_from_the_waveform_and_in_a_batch(
    model: LoevModel, reference: dict[str, np.ndarray]
) -> None:
    """1e-4, not 1e-5: the research code's spectrogram has its own rounding, see test_mel."""
    silence = torch.zeros(1, 48000)
    waveforms = torch.cat([silence, torch.from_numpy(reference["wave"][:1])])
    with torch.inference_mode():
        together = model(waveforms)
        alone = model(waveforms[1:])
    assert relative_error(together["global"][1:], reference["shared_encoded"][:1]) < 1e-4
    for name in together:
        assert torch.isfinite(together[name]).all(), "silence is finite too"
        assert relative_error(alone[name], together[name][1:].numpy()) < 1e-5


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block(
        32, 32, 8, freq_stride=1, is_transition=False, beta=1.0, drop_rate=0.5
    ).requires_grad_(False)


def test_a_new_block_passes_its_input_on(block: Block) -> None:
    x = torch.randn(2, 32, 3, 5)
    assert torch.equal(block(x), x)


def test_stochastic_depth_skips_examples_in_training_only(block: Block) -> None:
    block.gain.fill_(1.0)
    x = torch.randn(1, 32, 3, 5).repeat(64, 1, 1, 1)
    whole = block.eval()(x)
    assert torch.allclose(whole, whole[:1].expand_as(whole), atol=1e-6)
    torch.manual_seed(1)
    trained = block.train()(x)
    skipped = (trained == x).flatten(1).all(dim=1)
    assert 16 < int(skipped.sum()) < 48
    assert torch.allclose(trained[~skipped], whole[~skipped], atol=1e-6)
    torch.manual_seed(1)
    assert torch.equal(block(x), trained), "the same seed skips the same examples"


def test_it_reads_other_windows_and_says_when_one_is_too_short() -> None:
    with torch.device("meta"):
        encoder = SfNfnetF0(MelConfig(), ("global",), window_n_samples=4800)
        assert encoder(torch.empty(2, 1, 96, 31))["global"].shape == (2, 1728)
        with pytest.raises(UsageError, match="too short"):
            SfNfnetF0(MelConfig(), ("global",), window_n_samples=3200)
        with pytest.raises(UsageError, match="100 mel bands"):
            SfNfnetF0(MelConfig(n_mels=100), ("global",), window_n_samples=48000)


@pytest.mark.parametrize("name", ["small", "sf-nfnet-f0"])
def test_folded_weights_give_the_same(name: str) -> None:
    torch.manual_seed(0)
    spec = ModelSpec.of(name, method="cl", window_n_samples=81920 if name == "small" else 4800)
    model = LoevModel(spec).eval()
    for module in model.modules():
        if isinstance(module, Block):
            module.gain.data.fill_(0.5)
    waveform = 0.1 * torch.randn(2, spec.window_n_samples)
    with torch.inference_mode():
        before = model(waveform)
        fold_weights(model)
        fold_weights(model)
        after = model(waveform)
    for subspace in before:
        assert relative_error(after[subspace], before[subspace].numpy()) < 1e-5
