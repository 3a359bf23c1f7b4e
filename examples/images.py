"""LOEV++ on images: clothes that are recolored, rotated and scaled by known amounts.

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fashion
    python -m examples.images --data fashion/usr/share/datasets/fashion-mnist --out runs/images

Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, MIT license) as gray values; every image gets a hue, an
angle and a size of its own. Subspaces `color`, `rotation` and `scale` are to tell them; the class
is for `invariant`. All that loev does not know of images is in this file: what an item is, how it
is changed, and a CNN.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.study import Labeled, labels, options, study
from loev_cli.errors import UsageError
from loev_cli.evaluate.manifest import Fold
from loev_cli.model import GLOBAL, ModelSpec
from loev_cli.model.encoders import ENCODERS, EncoderKind, NoFrontend, NoFrontendConfig
from loev_cli.model.layers import module_key
from loev_cli.train.augment import Augmentation, Augmentations
from loev_cli.train.augment.base import setting
from loev_cli.train.config import TrainConfig
from loev_cli.train.data import Cache, Skipped
from loev_cli.train.domains import DOMAINS, DomainKind
from loev_cli.train.items import Changes, Item, Look
from loev_cli.train.views import PlannedView

SIDE = 28
N_TRAIN = 20_000
LABELS = {"class": "label", "hue": "hue_deg", "angle": "angle_deg", "size": "size"}
CLASSES = "t-shirt,trousers,pullover,dress,coat,sandal,shirt,sneaker,bag,boot".split(",")  # noqa: SIM905
PARTS = {"train": "train", "test": "t10k"}  # split -> how its files are called


@dataclass(frozen=True)
class Cut(Augmentation):
    """Realized where a view is drawn; draws differ by ``gap``."""

    gap: float = setting(8.0, 0)
    is_cut: ClassVar[bool] = True

    def differ(self, a: np.ndarray, b: np.ndarray) -> bool:
        return bool(abs(a[0] - b[0]) >= self.gap)


@dataclass(frozen=True)
class Color(Cut):
    """Turns the hue by ``degrees`` of the color circle."""

    degrees: tuple[float, float] = setting((-60.0, 60.0), -180, 180)
    name: ClassVar[str] = "color"


@dataclass(frozen=True)
class Rotation(Cut):
    """Rotates by ``degrees``, counterclockwise."""

    degrees: tuple[float, float] = setting((-40.0, 40.0), -180, 180)
    name: ClassVar[str] = "rotation"


@dataclass(frozen=True)
class Scale(Cut):
    """Makes the image ``ratio`` times as large."""

    gap: float = setting(0.06, 0)
    ratio: tuple[float, float] = setting((0.75, 1.3), 0.25, 4)
    name: ClassVar[str] = "scale"


@dataclass(frozen=True)
class Noise(Augmentation):
    """Adds normal noise of standard deviation ``level``. Never gets a subspace here."""

    level: tuple[float, float] = setting((0.0, 0.1), 0, 1)
    name: ClassVar[str] = "noise"


@dataclass(frozen=True)
class ImageAugmentations(Augmentations):
    """The tables ``[augmentations.NAME]`` of a config."""

    color: Color = field(default_factory=Color)
    rotation: Rotation = field(default_factory=Rotation)
    scale: Scale = field(default_factory=Scale)
    noise: Noise = field(default_factory=Noise)


@dataclass(frozen=True, kw_only=True)
class Image(Item):
    """One image: gray values (28, 28), and how it is painted, turned and sized."""

    gray: np.ndarray = field(repr=False, compare=False)
    label: str = field(compare=False)
    hue_deg: float = field(compare=False)
    angle_deg: float = field(compare=False)
    size: float = field(compare=False)


def read_images(folder: Path, split: str, n: int) -> list[Image]:
    """The first ``n`` images; each has its hue, angle and size from its number.

    Raises:
        UsageError: the files are not there, or are not what they should be.
    """
    images, classes = (
        folder / f"{PARTS[split]}-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")
    )
    try:
        pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
        names = np.frombuffer(gzip.decompress(classes.read_bytes()), np.uint8, offset=8)
        gray = pixels.reshape(-1, SIDE, SIDE)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read {images}: {error}", hint="the folder of dataset-fashion-mnist"
        ) from error
    rng = np.random.default_rng([len(gray), 0])
    drawn = rng.uniform((60, -30, 0.7), (240, 30, 1.0), size=(len(gray), 3))
    return [
        Image(
            path=Path(f"{split}/{i}"),
            digest=hashlib.blake2b(gray[i].tobytes(), digest_size=16).hexdigest(),
            split=split,
            gray=gray[i],
            label=CLASSES[names[i]],
            hue_deg=drawn[i, 0],
            angle_deg=drawn[i, 1],
            size=drawn[i, 2],
        )
        for i in range(min(n, len(gray)))
    ]


def draw(gray: np.ndarray, hue_deg: np.ndarray, angle_deg: np.ndarray, size: np.ndarray) -> Tensor:
    """(R, 28, 28) uint8 and three times (R,) -> (R, 3, 28, 28) float32, colors on black."""
    x = torch.from_numpy(gray).float()[:, None] / 255
    angle = torch.from_numpy(np.deg2rad(angle_deg)).float()
    factor = torch.from_numpy(1 / np.asarray(size)).float()
    cos, sin, zero = angle.cos() * factor, angle.sin() * factor, torch.zeros_like(angle)
    turned = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).reshape(-1, 2, 3)
    grid = F.affine_grid(turned, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    # Hue on the color circle at full saturation: red at 0, green at 120, blue at 240 degrees.
    hue = torch.from_numpy(np.asarray(hue_deg)).float()[:, None] - torch.tensor([0.0, 120, 240])
    apart = ((hue + 180) % 360 - 180).abs()
    return x * (2 - apart / 60).clamp(0, 1)[:, :, None, None]


class Images:
    """The domain; see :class:`loev_cli.train.domains.Domain`."""

    made_on = "pixels"
    view_s: float | None = None

    def __init__(self, config: TrainConfig, spec: ModelSpec, device: torch.device) -> None:
        self.config = config
        self.device = device

    def listing(self) -> list[Image]:
        return read_images(Path(self.config.data), "train", N_TRAIN)

    def look(self, listed: Sequence[Image]) -> Look:
        return Look(list(listed))

    def load(
        self, listed: Sequence[Image], cache: Cache | None, **how: Any
    ) -> tuple[list[Image], list[Skipped]]:
        """Copies would be wrong negatives; there are some."""
        return list({image.digest: image for image in listed}.values()), []

    def place(
        self, views: Sequence[PlannedView], item: Image, rng: np.random.Generator
    ) -> list[PlannedView]:
        return list(views)  # an image has no places

    def make_views(self, views: Sequence[tuple[Image, PlannedView]]) -> Tensor:
        """-> (R, 3, 28, 28)."""

        def by(name: str, neutral: float) -> np.ndarray:
            return np.array([v.params[name][0] if v.applied[name] else neutral for _, v in views])

        own = np.array([(image.hue_deg, image.angle_deg, image.size) for image, _ in views]).T
        x = draw(
            np.stack([image.gray for image, _ in views]),
            own[0] + by("color", 0),
            own[1] + by("rotation", 0),
            own[2] * by("scale", 1),
        )
        level = torch.from_numpy(by("noise", 0)).float()[:, None, None, None]
        for row, (_, view) in enumerate(views):
            if view.applied["noise"]:
                rng = np.random.default_rng(view.seeds["noise"])
                x[row] += level[row] * torch.from_numpy(rng.standard_normal(x.shape[1:], "f4"))
        return x.to(self.device)

    def changes(self, items: Sequence[Image], n: int) -> Changes:
        """As they are; with noise; changed by each augmentation that has a subspace."""
        names = self.config.augmentations.names()

        def rows(changed_by: str | None) -> list[Tensor]:
            views = []
            for i, item in enumerate(items[:n]):
                rng = np.random.default_rng([self.config.seed, i])
                params = {name: self.config.augmentations[name].draw(rng) for name in names}
                applied = {name: name == changed_by for name in names}
                views.append((item, PlannedView(0.0, params, applied, {}, dict.fromkeys(names, i))))
            return list(self.make_views(views).cpu())

        changed = {aug: rows(aug) for aug in self.config.augs}
        return Changes(rows(None), rows("noise"), changed)


class SmallCnn(nn.Module):
    """A trunk for all and a branch per subspace; `global` is as wide as all four of LOEV++."""

    def __init__(
        self, frontend: Any, branches: Sequence[str], *, width: int = 32, dim: int = 64
    ) -> None:
        super().__init__()
        first, second = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.trunk = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.dims = {name: dim * 4 if name == GLOBAL else dim for name in branches}
        made = {module_key(name): branch(width, n) for name, n in self.dims.items()}
        self.branches = nn.ModuleDict(made)

    def forward(self, x: Tensor, branches: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, 28, 28) -> {branch: (B, D)}."""
        x = self.trunk(x)
        return {name: self.branches[module_key(name)](x) for name in branches or self.dims}


def branch(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(width, dim, 3, 2, 1), nn.ReLU(), nn.Conv2d(dim, dim, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(dim * 16, dim)),
    )


DOMAINS["images"] = DomainKind(Images, ImageAugmentations)
ENCODERS["small-cnn"] = EncoderKind(
    encoder=SmallCnn,
    frontend=NoFrontend,
    frontend_config=NoFrontendConfig,
    window_n_samples=0,
    head_dims=(128, 64),
    head_final_relu=False,
    input_shape=(3, SIDE, SIDE),
)


def config_of(data: Path, **settings: Any) -> TrainConfig:
    """The LOEV++ run; CL is the same, with as many views."""
    usual: dict[str, Any] = {"batch_size": 32, "n_views": 4, "lr": 2e-3, "val_fraction": 0.01}
    usual |= {"augs": ("color", "rotation", "scale"), "encoder": "small-cnn"}
    return TrainConfig(domain="images", data=str(data), **usual | settings)


def labeled(data: Path, n: int) -> Labeled:
    """The first ``n`` test images with what is known of them."""
    items = read_images(data, "test", n)
    rows = np.arange(len(items))
    half, part = len(rows) // 2, len(rows) * 2 // 3
    return Labeled(
        items,
        [labels(name, [getattr(image, of) for image in items]) for name, of in LABELS.items()],
        [Fold(rows[:half], rows[half:part], rows[part:])],
        {"class": "invariant", "hue": "color", "angle": "rotation", "size": "scale"},
    )


def main() -> None:
    parser = options(__doc__, n_steps=160)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n-test", type=int, default=1500)
    args = parser.parse_args()
    config = config_of(args.data, steps=args.steps)
    study(config, labeled(args.data, args.n_test), args.out, args.seeds)


if __name__ == "__main__":
    main()
