"""How many training steps per second, against the plain way of writing the same training?

    python benchmarks/train_steps.py [--encoder sf-nfnet-f0 small] [--tracks 4] [--views 2]
                                     [--steps 5] [--threads 2] [--device cpu] [--precision auto]

Both sides train the same architecture, in the same process, on the same features, taking turns:

    loev     the loop's own step: Objective.backward, clipped gradients, AdamW; channels last
    plain    contiguous memory, fp32, weights standardized by the formula, every head's loss
             computed over a loop of rows, one scalar summed from them; the same optimizer

Features are made beforehand: this is about the model's step, not about decoding. Prints the best
step of each, in ms and steps per second, and their ratio. On a CUDA device `--precision auto` is
bf16 for loev, and the plain side stays fp32 (with TF32 off).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loev_cli.model import LoevModel, ModelSpec
from loev_cli.model.encoders.sf_nfnet import Block, ScaledConv2d
from loev_cli.model.layers import StandardizedConv2d
from loev_cli.train.batches import Batch
from loev_cli.train.config import TrainConfig
from loev_cli.train.distributed import Group
from loev_cli.train.losses import ViewLabels, positives
from loev_cli.train.objective import Objective

Step = Callable[[int], None]


class PlainConv2d(nn.Conv2d):
    """Standardized convolution, term by term."""

    def __init__(self, conv: ScaledConv2d | StandardizedConv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        self.load_state_dict(conv.state_dict(), strict=False)
        self.is_scaled = isinstance(conv, ScaledConv2d)
        if isinstance(conv, StandardizedConv2d):
            self.gain = nn.Parameter(conv.gain.detach().clone())
            self.activation_gain = conv.activation_gain

    def forward(self, x: Tensor) -> Tensor:
        fan_in = self.weight[0].numel()
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        variance = self.weight.var(dim=(1, 2, 3), unbiased=self.is_scaled, keepdim=True)
        if self.is_scaled:
            weight = (self.weight - mean) * torch.rsqrt((variance * fan_in).clamp(min=1e-4))
        else:
            weight = (self.weight - mean) * torch.rsqrt(variance * fan_in + 1e-4)
            weight = weight * self.gain * self.activation_gain
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, 1, self.groups)


class PlainBlock(nn.Module):
    """A block of the NFNet as its paper draws it, operation by operation."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            PlainConv2d(conv)
            for conv in (block.reduce, block.along_time, block.along_freq, block.expand)
        )
        self.excite = copy.deepcopy(block.excite)
        self.skip = PlainConv2d(block.skip) if block.skip is not None else None
        self.gain = nn.Parameter(block.gain.detach().clone())
        self.alpha, self.beta = float(block.alpha), float(block.beta)
        self.drop_rate, self.freq_stride = block.drop_rate, block.freq_stride

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x) * self.beta
        skip = x
        if self.skip is not None:
            pooled = F.avg_pool2d(y, (self.freq_stride, 1)) if self.freq_stride > 1 else y
            skip = self.skip(pooled)
        for i, conv in enumerate(self.convs):
            y = conv(y)
            if i < 3:
                y = torch.relu(y)
        y = y * self.excite(y.mean(dim=(2, 3)))[:, :, None, None]
        y = y * self.gain * self.alpha
        if self.drop_rate > 0:
            y = y * (torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_rate)
        return skip + y


def plain(module: nn.Module) -> nn.Module:
    """In place: the same network, written the plain way."""
    for name, child in module.named_children():
        if isinstance(child, Block):
            setattr(module, name, PlainBlock(child))
        elif isinstance(child, ScaledConv2d | StandardizedConv2d):
            setattr(module, name, PlainConv2d(child))
        else:
            plain(child)
    return module


def plain_loss(z: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Row by row, as the formula stands."""
    z = F.normalize(z, dim=1)
    rows = []
    for a in range(len(z)):
        similarity = torch.exp(z @ z[a] / temperature)
        others = similarity.sum() - similarity[a]
        terms = [-torch.log(similarity[b] / others) for b in positive[a].nonzero()[:, 0]]
        if terms:
            rows.append(torch.stack(terms).mean())
    return torch.stack(rows).mean()


def make_batch(model: LoevModel, n_tracks: int, n_views: int) -> Batch:
    """Noise as views; view 1 shares every augmentation's draw with view 0, the others none."""
    n_rows = n_tracks * n_views
    noise = torch.randn(
        n_rows, model.spec.window_n_samples, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        features = model.features(0.1 * noise)
    track = torch.arange(n_tracks).repeat_interleave(n_views)
    draws = torch.arange(n_views).clamp(min=1).repeat(n_tracks)
    return Batch(features, ViewLabels(track, dict.fromkeys(model.spec.augs, draws)), ())


def to(batch: Batch, device: torch.device) -> Batch:
    features = batch.features
    if isinstance(features, Tensor):
        moved = features.to(device)
    else:
        moved = type(features)(*(x.to(device) for x in features))
    labels = ViewLabels(
        batch.labels.track.to(device), {k: v.to(device) for k, v in batch.labels.draws.items()}
    )
    return Batch(moved, labels, ())


def finish(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def loev_step(config: TrainConfig, model: LoevModel, batch: Batch, precision: str) -> Step:
    device = next(model.parameters()).device
    is_bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    autocast = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=is_bf16)
    objective = Objective(config, Group(), n_rows_at_once=None, autocast=autocast)

    def step(i: int) -> None:
        optimiser.zero_grad(set_to_none=True)
        objective.backward(model, batch, i)
        finish(model, optimiser)

    return step


def plain_step(config: TrainConfig, model: LoevModel, batch: Batch) -> Step:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    masks = {
        head: positives(head, batch.labels, method=config.method, scheme=config.view_scheme)
        for head in model.spec.heads
    }

    def step(_: int) -> None:
        optimiser.zero_grad()
        projections = model.project(batch.features).projections
        losses = [plain_loss(z, masks[h], config.temperature) for h, z in projections.items()]
        (sum(losses) / len(losses)).backward()  # type: ignore[union-attr]
        finish(model, optimiser)

    return step


def seconds(step: Step, i: int, device: torch.device) -> float:
    began = time.perf_counter()
    step(i)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", nargs="+", default=["sf-nfnet-f0", "small"])
    parser.add_argument("--tracks", type=int, default=4)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device(args.device)

    print(f"{args.tracks} tracks x {args.views} views, {args.threads} threads, {device}\n")
    print("| encoder | plain, ms | loev, ms | plain, steps/s | loev, steps/s | ratio |")
    print("|---|---|---|---|---|---|")
    for encoder in args.encoder:
        config = TrainConfig(encoder=encoder, steps=1)
        torch.manual_seed(0)
        model = LoevModel(ModelSpec.of(encoder)).train()
        batch = to(make_batch(model, args.tracks, args.views), device)
        other = copy.deepcopy(model)
        plain(other)
        sides = {
            "plain": plain_step(config, other.to(device), batch),
            "loev": loev_step(config, model.to(device), batch, args.precision),
        }
        best = dict.fromkeys(sides, float("inf"))
        for i in range(args.steps + 1):  # the first warms up
            for side, step in sides.items():
                took = seconds(step, i, device)
                best[side] = min(best[side], took) if i else best[side]
        a, b = best["plain"], best["loev"]
        print(
            f"| {encoder} | {a * 1000:.0f} | {b * 1000:.0f} | {1 / a:.2f} | {1 / b:.2f} "
            f"| {a / b:.2f} |"
        )


if __name__ == "__main__":
    main()
