"""Figures of the report, for paper, screens and phones.

:func:`as_svg` replaces the color of text and axes by the page's own; data colors have medium
lightness, so that they are visible on white and on black.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from loev_cli.defaults import PALETTE
from loev_cli.evaluate.equivariance import Response
from loev_cli.evaluate.manifest import Column
from loev_cli.evaluate.probes import ProbeResult
from loev_cli.evaluate.statistics import Estimate
from loev_cli.music_keys import KEYS, fifths

Labeled = tuple[Figure, str]  # a figure and its caption

_FIFTHS = np.array([fifths(key) for key in range(len(KEYS))])
_INK = "#1a2b3d"  # dark on paper; replaced by the page's text color
_MOST_DOTS = 2000
MAP_METHODS = ("pca", "tsne")
_PERPLEXITY = 30.0
_WIDTH = 4.9  # inches; a phone shows it without shrinking the text much
_MOST_WITH_INTERVALS = 5  # columns of a heat map
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of files and columns may hold dollars
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9.5,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "image.cmap": "viridis",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save figures inside."""
    with mpl.rc_context(_STYLE):
        yield


def as_svg(figure: Figure, name: str) -> str:
    """An ``<svg>`` element for a page, in the page's colors.

    Args:
        name: unique on the page; the element ids are derived from it.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def save_png(figure: Figure, path: Path) -> None:
    """Save on white, for slides and papers."""
    with style():
        figure.savefig(path, dpi=200, facecolor="white")


def colour_of(names: Sequence[str]) -> dict[str, str]:
    """Subspace -> its color, the same in every figure."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def heat_map(rows: Mapping[str, Mapping[str, Estimate | None]], *, label: str) -> Figure:
    """A cell per row and column with its value and interval; an empty one where None.

    With many columns the intervals are omitted; the report has them in a table. A line on the
    color bar at chance.
    """
    names, columns = list(rows), list(next(iter(rows.values())))
    values = np.array(
        [[(e.value if (e := rows[r][c]) else np.nan) for c in columns] for r in names]
    )
    figure = Figure(figsize=(_WIDTH, 1.0 + 0.55 * len(names)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, vmin=0, vmax=1, aspect="auto")
    is_crowded = len(columns) > _MOST_WITH_INTERVALS
    axes.set_xticks(range(len(columns)), columns)
    for tick in axes.get_xticklabels() if is_crowded else []:
        tick.set(rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for i, name in enumerate(names):
        for j, column in enumerate(columns):
            estimate = rows[name][column]
            if estimate is None:
                continue
            # Contrast with the cell, independent of the page.
            ink = "#ffffff" if np.nan_to_num(estimate.value) < 0.6 else "#000000"
            up = 0.0 if is_crowded else 0.14
            axes.text(j, i - up, _short(estimate.value), ha="center", va="center", color=ink)
            if is_crowded or not estimate.has_interval:
                continue
            span = f"{_short(estimate.low)} – {_short(estimate.high)}"
            axes.text(j, i + 0.24, span, ha="center", va="center", color=ink, fontsize=7)
    chances = [e.chance for of in rows.values() for e in of.values() if e and e.chance is not None]
    _color_bar(figure, axes, image, label, min(chances, default=None))
    return figure


def _color_bar(
    figure: Figure, axes: Axes, image: AxesImage, label: str, chance: float | None
) -> None:
    """From 0 to 1, with a line at ``chance``."""
    marked = "" if chance is None else f"\nline: chance {_short(chance)}"
    bar = figure.colorbar(image, ax=axes, label=f"{label}{marked}", fraction=0.05)
    bar.outline.set_visible(False)
    if chance is not None:
        bar.ax.axhline(max(0.0, chance), color="#cf4a6b", lw=2)


def bars(groups: Mapping[str, Mapping[str, Estimate]], *, label: str) -> Figure:
    """A bar with its interval per row and series; a dotted line at chance.

    Args:
        groups: row -> series -> value.
    """
    names = list(groups)
    series = list(dict.fromkeys(s for of in groups.values() for s in of))
    height = 0.8 / len(series)
    figure = Figure(
        figsize=(_WIDTH, 0.8 + 0.24 * len(names) * (1 + len(series))), layout="constrained"
    )
    axes = figure.subplots()
    for j, one in enumerate(series):
        for i, name in enumerate(names):
            estimate = groups[name].get(one)
            if estimate is None or not np.isfinite(estimate.value):
                continue
            y = i + (j - (len(series) - 1) / 2) * height
            axes.barh(y, estimate.value, height * 0.9, color=PALETTE[j % len(PALETTE)])
            axes.plot([estimate.low, estimate.high], [y, y], color=_INK, lw=1.2)
            if estimate.chance is not None:
                span = [y - height / 2, y + height / 2]
                axes.plot([estimate.chance] * 2, span, ":", color=_INK, lw=1.5)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    ends = [end for of in groups.values() for e in of.values() for end in (e.low, e.value, e.high)]
    reach = [end for end in ends if np.isfinite(end)]
    # A value far below 0, as R2 can be, must not squeeze the others.
    axes.set_xlim(max(min([0.0, *reach]), -1.0), 1.05 * max([0.1, *reach]))
    handles: list[Artist] = [
        mpl.patches.Patch(color=PALETTE[j % len(PALETTE)], label=one)
        for j, one in enumerate(series)
    ]
    handles.append(mpl.lines.Line2D([], [], ls=":", color=_INK, label="chance"))
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=8)
    return figure


def forest(rows: Mapping[str, tuple[Estimate, bool]], *, label: str) -> Figure:
    """Differences with their intervals about a line at 0; filled if significant."""
    names = list(rows)
    figure = Figure(figsize=(_WIDTH, 0.9 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=_INK, lw=1, ls=":")
    for i, name in enumerate(names):
        estimate, is_clear = rows[name]
        colour = PALETTE[0] if estimate.value > 0 else PALETTE[1]
        axes.plot([estimate.low, estimate.high], [i, i], color=colour, lw=2)
        face = colour if is_clear else "none"
        axes.plot(estimate.value, i, "o", ms=7, mec=colour, mew=1.6, mfc=face)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    ends = [abs(x) for e, _ in rows.values() for x in (e.low, e.high) if np.isfinite(x)]
    reach = 1.08 * max([0.05, *ends])
    axes.set_xlim(-reach, reach)
    return figure


def wide_figure(height: float) -> Figure:
    """An empty figure of the reports' width; ``height`` in inches."""
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def curves(responses: Sequence[Response], unit: str) -> Figure:
    """Distance each subspace moves by the size of one transformation."""
    figure = wide_figure(2.9)
    axes = figure.subplots()
    colours = colour_of([response.subspace for response in responses])
    for response in responses:
        points = {0.0: None, **response.curve} if _passes_zero(response) else response.curve
        sizes = sorted(points)
        estimates = [points[size] for size in sizes]
        colour = colours[response.subspace]
        middle = [e.value if e else 0.0 for e in estimates]
        axes.plot(sizes, middle, "o-", ms=3.5, lw=1.5, color=colour, label=response.subspace)
        low, high = ([getattr(e, end) if e else 0.0 for e in estimates] for end in ("low", "high"))
        axes.fill_between(sizes, low, high, color=colour, alpha=0.2, lw=0)
    axes.axhline(1, ls=":", color=_INK, lw=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{responses[0].change}: {unit}")
    axes.set_ylabel("moved / between tracks")
    figure.legend(loc="outside upper left", ncols=4, fontsize=8)
    return figure


def _passes_zero(response: Response) -> bool:
    return min(response.curve) < 0 < max(response.curve)


def flatten(x: NDArray[Any], method: str, *, seed: int = 0) -> NDArray[np.float64]:
    """Rows (n, D) -> (n, 2), by one of ``MAP_METHODS``. t-SNE of fewer than eight rows is PCA."""
    x = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    if method == "tsne" and len(x) >= 8:
        from sklearn.manifold import TSNE  # takes a second to import, and few ask for it

        perplexity = min(_PERPLEXITY, (len(x) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        return np.asarray(tsne.fit_transform(x), np.float64)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    places = (u * s)[:, :2]
    return np.hstack([places, np.zeros((len(x), 2 - places.shape[1]))])


def subspace_map(
    places: NDArray[np.float64], columns: Sequence[Column], rows: NDArray[np.int64]
) -> Figure:
    """(n, 2) of one subspace, a panel per column: ``key`` and ``tempo``, or others."""
    figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, max(1, len(columns))))
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
        axes.spines[:].set_visible(True)
        axes.spines[:].set_alpha(0.3)
    if not columns:
        _dots(panels[0], places, color=PALETTE[0])
    for axes, column in zip(panels, columns, strict=False):
        known = column.known[rows]
        values = column.values[rows]
        axes.set_title(column.name)
        if (~known).any():
            _dots(axes, places[~known], color="#999999", alpha=0.4)
        if column.kind == "key":
            minor = values >= 12
            for mode, marker in ((~minor & known, "o"), (minor & known, "^")):
                hue = _FIFTHS[values[mode]] / 12
                _dots(axes, places[mode], c=mpl.colormaps["hsv"](hue), marker=marker)
        elif column.kind in ("tempo", "number"):
            shown = np.log(values[known]) if column.kind == "tempo" else values[known]
            dots = _dots(axes, places[known], c=shown, cmap="cool")
            if column.kind == "tempo" and len(shown):
                bar = figure.colorbar(dots, ax=axes, fraction=0.05, label="BPM")
                ticks = np.linspace(shown.min(), shown.max(), 4)
                bar.set_ticks(ticks.tolist(), labels=[f"{np.exp(t):.0f}" for t in ticks])
        elif column.kind == "class":
            _dots(axes, places[known], c=mpl.colormaps["tab20"](values[known] % 20))
        else:
            _dots(axes, places[known], c=mpl.colormaps["tab20"](values[known].argmax(axis=1) % 20))
    return figure


def _dots(axes: Axes, places: NDArray[np.float64], **how: Any) -> PathCollection:
    # Many dots are rasterized: as vectors they would make the page large.
    return axes.scatter(
        places[:, 0], places[:, 1], s=16, lw=0, rasterized=len(places) > _MOST_DOTS, **how
    )


def key_confusion(probe: ProbeResult) -> Figure:
    """Confusion matrix of true and predicted key, in the order of the circle of fifths."""
    keys = np.arange(24)
    order = np.lexsort((_FIFTHS, keys >= 12))
    place = np.argsort(order)
    counts = np.zeros((24, 24))
    np.add.at(counts, (place[probe.read.truth], place[probe.read.output]), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(_WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1)
    names = [KEYS[k].replace(" major", "").replace(" minor", "m") for k in order]
    axes.set_xticks(range(24), names, fontsize=6.5, rotation=90)
    axes.set_yticks(range(24), names, fontsize=6.5)
    axes.tick_params(length=0)
    axes.axhline(11.5, color="white", lw=0.8)
    axes.axvline(11.5, color="white", lw=0.8)
    axes.set_ylabel("true key")
    axes.set_xlabel("predicted key")
    _color_bar(figure, axes, image, "share of the tracks in the true key", 1 / 24)
    return figure


def key_errors(probe: ProbeResult) -> Figure:
    """Shares of predictions by steps on the circle of fifths from the true key."""
    steps = (_FIFTHS[probe.read.output] - _FIFTHS[probe.read.truth]) % 12
    same = (probe.read.output >= 12) == (probe.read.truth >= 12)
    figure = Figure(figsize=(_WIDTH, 3.6), layout="constrained")
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    shares = [np.bincount(steps[mode], minlength=12) / len(steps) for mode in (same, ~same)]
    angle = np.arange(12) * np.pi / 6
    axes.set_theta_zero_location("N")  # type: ignore[attr-defined]
    axes.set_rlabel_position(200)  # type: ignore[attr-defined]
    axes.set_theta_direction(-1)  # type: ignore[attr-defined]
    axes.bar(angle, shares[0], 0.45, color=PALETTE[0], label="same mode")
    axes.bar(angle, shares[1], 0.45, bottom=shares[0], color=PALETTE[1], label="other mode")
    circle = np.linspace(0, 2 * np.pi, 100)
    axes.plot(circle, np.full(100, 1 / 12), ":", color=_INK, lw=1.2, label="chance")
    names = [
        "correct key\nor relative",
        *(f"{k:+d}" for k in (1, 2, 3, 4, 5, 6, -5, -4, -3, -2, -1)),
    ]
    axes.set_xticks(angle, names)
    axes.tick_params(labelsize=8)
    axes.grid(color=_INK, alpha=0.2)
    axes.spines[:].set_alpha(0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _short(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{round(value, 2) + 0.0:.2f}"
