"""Weights of the paper's research code (MuLOOC), under our names: so that they run here.

    Lightning checkpoint --safe read--> tensors --names--> LoevModel, encoder sf-nfnet-f0

Their names, for a stage `s` and a block `b` of the slow path (the fast one is alike):

    slow_layers.s.blocks.0.    input_layers.1.scalar                     beta
                               residual_path.{0..3}.conv.weight          the four convolutions
                               residual_path.4.fc.{0,2}                  excite
                               residual_path.{5,6}.scalar                gain, alpha
                               skip_path.1.conv.weight                   skip
    slow_layers.s.blocks.b.    residual_path.{1, 2..5, 6, 7, 8}          beta, ..., alpha
    slow_layers.3.blocks.b.parallels.h.   the same, a copy for head h: a split encoder (LOEV++)

Reading never runs what a pickle asks for: torch's weights-only reader builds tensors and plain
values, and every class it does not know is replaced by one that does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from keyword import iskeyword
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loev_cli.errors import UsageError
from loev_cli.model.encoders.sf_nfnet import N_BLOCKS
from loev_cli.model.layers import GLOBAL, INVARIANT, Method, module_key
from loev_cli.model.loev import LoevModel, ModelSpec

ENCODER = "sf-nfnet-f0"
_PARTS = ("slow_stem", "fast_stem", "slow_layers", "fast_layers", "fusion_layers")
_KNOWN_ENCODER_NAME = "slow_stem.layers.0.weight"
_KNOWN_HEAD_NAME = "heads.0.0.weight"
_CONVS = ("reduce", "along_time", "along_freq", "expand")


@dataclass(frozen=True)
class MuloocWeights:
    """What a checkpoint of the research code holds.

    Attributes:
        tensors: by the research code's names, without the prefix of the file.
        is_split: whether the last blocks have a copy per head (LOEV++).
        head_dims: widths of a projection head's layers.
        left_out: names of other tensors of the file (a loss's, a frontend's).
        foreign: classes and functions the file asks for, none of which was run.
    """

    tensors: Mapping[str, Tensor]
    is_split: bool
    n_heads: int
    head_dims: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def method(self) -> Method:
        """What the weights were trained as. ``loev`` and ``looc`` do not differ in shape."""
        if self.is_split:
            return "loev++"
        return "cl" if self.n_heads == 1 else "loev"


def read_mulooc(file: Path) -> MuloocWeights:
    """The encoder and heads in a checkpoint of the research code, whatever they were saved under.

    Raises:
        UsageError: no such file, unreadable, unsafe, or not of this architecture.
    """
    state, foreign = _read_state_dict(file)
    encoder = _prefix(state, _KNOWN_ENCODER_NAME, file)
    heads = _prefix(state, _KNOWN_HEAD_NAME, file)
    tensors: dict[str, Tensor] = {}
    left_out = []
    for name, tensor in state.items():
        of_encoder = name.removeprefix(encoder)
        of_heads = name.removeprefix(heads)
        if name.startswith(encoder) and of_encoder.split(".")[0] in _PARTS:
            tensors[f"encoder.{of_encoder}"] = tensor
        elif name.startswith(heads) and of_heads.startswith("heads."):
            tensors[of_heads] = tensor
        else:
            left_out.append(name)
    return MuloocWeights(
        tensors=tensors,
        is_split=any(".parallels." in name for name in tensors),
        n_heads=1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("heads.")),
        head_dims=_head_dims(tensors, file),
        left_out=tuple(left_out),
        foreign=foreign,
    )


def build_mulooc(weights: MuloocWeights, augs: tuple[str, ...], file: Path) -> LoevModel:
    """The model that runs ``weights``, in evaluation mode; head 0 is ``invariant``.

    Embeddings are as the research code gives them: what centers and scales them is neutral.

    Args:
        augs: what heads 1, 2, ... stand for.
        file: where they came from, for messages.

    Raises:
        UsageError: another number of heads, or weights of another shape.
    """
    heads = (INVARIANT, *augs)
    if bad := [a for a in augs if not _can_name_a_head(a) or heads.count(a) > 1]:
        raise UsageError(f"'{bad[0]}' is not a valid, unique head name in --augs")
    if len(augs) != weights.n_heads - 1:
        raise UsageError(
            f"{file} has {weights.n_heads} heads, `{INVARIANT}` and {weights.n_heads - 1} more; "
            f"--augs names {len(augs)}",
            hint="name the heads after the first, in training order",
        )
    spec = ModelSpec.of(ENCODER, method=weights.method, augs=augs, head_dims=weights.head_dims)
    model = LoevModel(spec)
    ours = model.state_dict()
    theirs = mulooc_names(spec.heads, is_split=weights.is_split, n_layers=len(spec.head_dims))
    _check_shapes(weights.tensors, {name: ours[own].shape for name, own in theirs.items()}, file)
    for name, own in theirs.items():
        ours[own].copy_(weights.tensors[name])
    return model.eval()


def mulooc_names(heads: Iterable[str], *, is_split: bool, n_layers: int = 2) -> dict[str, str]:
    """Name in the research code -> name in :class:`LoevModel`, of every tensor there is.

    Args:
        heads: our names of the heads, in order.
        n_layers: linear layers of a head.
    """
    heads = tuple(heads)
    names = {
        f"heads.{h}.{2 * i}.weight": f"heads.{head}.{2 * i}.weight"
        for h, head in enumerate(heads)
        for i in range(n_layers)
    }
    for path, i in product(("slow", "fast"), range(4)):
        conv, norm = 3 * i, 3 * i + 1
        leaves = [f"{conv}.weight", f"{conv}.bias", f"{norm}.weight", f"{norm}.bias"]
        leaves += [f"{norm}.{x}" for x in ("running_mean", "running_var", "num_batches_tracked")]
        names |= {
            f"encoder.{path}_stem.layers.{leaf}": f"encoder.{path}_stem.{leaf}" for leaf in leaves
        }
    for stage in range(4):
        fusion = f"fusion_layers.{stage}"
        names[f"encoder.{fusion}.conv1.conv.weight"] = f"encoder.fusions.{stage}.slow_down.weight"
        names[f"encoder.{fusion}.conv2.conv.weight"] = f"encoder.fusions.{stage}.widen.weight"
    branches = heads if is_split else (GLOBAL,)
    for path, stage in product(("slow", "fast"), range(4)):
        for block in range(N_BLOCKS[stage]):
            theirs = f"encoder.{path}_layers.{stage}.blocks.{block}"
            if stage < 3 or block == 0:
                names |= _block_names(theirs, f"encoder.{path}_stages.{stage}.{block}", block == 0)
                continue
            for h, branch in enumerate(branches):
                copy = f"{theirs}.parallels.{h}" if is_split else theirs
                own = f"encoder.branches.{module_key(branch)}.{path}.{block - 1}"
                names |= _block_names(copy, own, False)
    return names


def _block_names(theirs: str, own: str, is_transition: bool) -> dict[str, str]:
    """Names of a block's tensors; the first block of a stage keeps its beta elsewhere."""
    first = 0 if is_transition else 2
    path = f"{theirs}.residual_path"
    beta = f"{theirs}.input_layers.1.scalar" if is_transition else f"{path}.1.scalar"
    names = {beta: f"{own}.beta"}
    for i, conv in enumerate(_CONVS):
        names[f"{path}.{first + i}.conv.weight"] = f"{own}.{conv}.weight"
    for i, leaf in product((0, 2), ("weight", "bias")):
        names[f"{path}.{first + 4}.fc.{i}.{leaf}"] = f"{own}.excite.{i}.{leaf}"
    names[f"{path}.{first + 5}.scalar"] = f"{own}.gain"
    names[f"{path}.{first + 6}.scalar"] = f"{own}.alpha"
    if is_transition:
        names[f"{theirs}.skip_path.1.conv.weight"] = f"{own}.skip.weight"
    return names


def card(name: str, spec: ModelSpec, file: Path) -> str:
    """Markdown text of a bundle's ``README.md``."""
    heads = ", ".join(f"`{head}`" for head in spec.heads)
    method = (
        "loev or looc (the weights are the same shape)" if spec.method == "loev" else spec.method
    )
    return f"""# {name}

Weights of the research code of LOEV++ (Guinot et al., ICASSP 2025; MuLOOC), read from
`{file.name}` by `loev export --from-mulooc`. Method: {method}; encoder `{spec.encoder}`; heads, as
named by whoever exported them: {heads}.

It reads mono audio at {spec.frontend.sample_rate_hz} Hz in windows of {spec.window_s:.2f} s; a
shorter file is repeated to fill one window. The embedding of a track is the mean of its windows.

## What differs from a model trained by loev

Embeddings are as the encoder gives them. A model trained by loev takes their mean off and scales
them to a mean squared norm of 1; what that needs is not in the checkpoint, so here the mean is 0
and the scale 1. Compare directions (cosine), or standardize over your own library.

## Training, and what was measured

Unknown here: the checkpoint does not say what it was trained on, nor with which ranges of the
augmentations. Measure it on your own data before you rely on it.

## License

The license of the weights is that of their authors, not of loev.
"""


def _can_name_a_head(aug: str) -> bool:
    return aug.isidentifier() and not iskeyword(aug)


class _Inert:
    """Inert stand-in for non-torch classes and functions in a pickle."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


class _InertDict:
    """The same for kinds of dict, whose items the reader puts into a plain one only."""

    def __new__(cls, *_: object) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


def _read_state_dict(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors of a checkpoint by name, and the classes it asked for. Nothing of it is run."""
    if not file.is_file():
        raise UsageError(f"no checkpoint {file}")
    try:
        foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        stand_ins: Any = [
            (_InertDict if name.lower().endswith("dict") else _Inert, name) for name in foreign
        ]
        with torch.serialization.safe_globals(stand_ins):
            # Mapped, since an optimizer's state, twice the weights, is never looked at.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises whatever a foreign file provokes in it
        raise UsageError(
            f"{file} is damaged, or cannot be loaded without executing code from it: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}",
            hint="use a torch.save file with a 'state_dict' of tensors",
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise UsageError(f"{file} contains no state_dict")
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}, tuple(foreign)


def _prefix(state: Mapping[str, Tensor], known: str, file: Path) -> str:
    """What stands before the names, found by one that every such checkpoint has."""
    pattern = re.compile(rf"((?:.*\.)?){re.escape(known)}")
    found = [match[1] for name in state if (match := pattern.fullmatch(name))]
    if len(found) != 1:
        some = ", ".join(list(state)[:3]) or "nothing"
        raise UsageError(
            f"{file} is not a MuLOOC checkpoint: it has {len(found)} tensors '{known}'",
            hint=f"its first tensors: {some}",
        )
    return found[0]


def _head_dims(tensors: Mapping[str, Tensor], file: Path) -> tuple[int, ...]:
    by_head: dict[str, dict[int, int]] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"heads\.(\d+)\.(\d+)\.weight", name):
            by_head.setdefault(match[1], {})[int(match[2])] = len(tensor)
    dims = {tuple(layers[i] for i in sorted(layers)) for layers in by_head.values()}
    if len(dims) != 1:
        raise UsageError(f"{file} has heads of different shapes: {sorted(dims)}")
    return dims.pop()


def _check_shapes(
    tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], file: Path
) -> None:
    problems = [
        *(f"{name} is missing" for name in expected if name not in tensors),
        *(f"{name} is unexpected" for name in tensors if name not in expected),
        *(
            f"{name} is {tuple(tensors[name].shape)}, not {tuple(shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ),
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UsageError(f"{file} does not match {ENCODER}: {'; '.join(problems[:3])}{more}")
