"""What a model card says of a model's readouts, in a section of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loev_cli.evaluate.readouts import FittedReadout
from loev_cli.evaluate.statistics import Estimate

TITLE = "Annotations"


def card_with_readouts(card: str, fitted: Sequence[FittedReadout], *, data: str) -> str:
    """The card with the section ``## Annotations`` put in the place of an earlier one, or before
    ``## Limits``, or at the end.

    Args:
        data: the manifests, in words.
    """
    section = f"## {TITLE}\n\n{_section(fitted, data).rstrip()}\n\n"
    earlier = re.compile(rf"^## {TITLE}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if earlier.search(card):
        new = earlier.sub(lambda _: section, card)
    else:
        at = re.search(r"^## Limits$", card, re.MULTILINE)
        where = at.start() if at else len(card)
        new = f"{card[:where].rstrip()}\n\n{section}{card[where:]}"
    return new.rstrip() + "\n"


def _section(fitted: Sequence[FittedReadout], data: str) -> str:
    lines = [
        "`loev annotate` and `loev embed --annotate` read these from the subspaces, by linear",
        f"readouts that were fitted to {data}. Judged on the test rows, which chose nothing;",
        "in brackets 95 % intervals from a bootstrap over groups.",
        "",
        "| answer | from | train, val, test tracks | score on the test rows | ECE |",
        "|---|---|---|---|---|",
    ]
    for each in fitted:
        scores = ", ".join(f"{name} {_figure(e)}" for name, e in each.scores.items())
        counts = ", ".join(str(n) for n in each.n_tracks.values())
        lines.append(
            f"| {each.name} | `{each.readout.subspace}` | {counts} | {scores} | "
            f"{each.curve.ece:.3f} |"
        )
    lines += [
        "",
        "The confidence of a key is the probability that tonic and mode are both right, that of a",
        "tempo that it is right within 4 % (Acc1). Of the answers on the test rows with a",
        "confidence of so much, this share was right:",
        "",
    ]
    for each in fitted:
        lines += [
            f"| {each.name}: confidence | answers | mean confidence | right |",
            "|---|---|---|---|",
            *(
                f"| {bin_['from']:.1f}-{bin_['from'] + 0.1:.1f} | {bin_['n']} | "
                f"{bin_['confidence']:.2f} | {bin_['right']:.2f} |"
                for bin_ in each.curve.records()
            ),
            "",
        ]
    for each in fitted:
        if each.label_range is not None:
            low, high = each.label_range
            lines += [
                f"Tempo was learned from {low:.0f} to {high:.0f} BPM: music outside of that is",
                "given half or twice its tempo. Confidences hold for music like that of the test",
                "rows and are too high for music unlike it.",
            ]
    return "\n".join(lines)


def _figure(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.2f}, {estimate.high:.2f}]"
