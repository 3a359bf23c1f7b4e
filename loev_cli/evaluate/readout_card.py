"""The model card's section on the readouts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loev_cli.evaluate.readouts import FittedReadout
from loev_cli.evaluate.statistics import Estimate

TITLE = "Annotations"


def card_with_readouts(
    card: str, fitted: Sequence[FittedReadout], *, data: str, adapted: bool = False
) -> str:
    """The card with the section ``## Annotations``: replaces an earlier one, or is inserted before
    ``## Limits``, or at the end.

    Args:
        data: description of the manifests.
        adapted: whether the fit started from earlier readouts.
    """
    section = f"## {TITLE}\n\n{_section(fitted, data, adapted).rstrip()}\n\n"
    earlier = re.compile(rf"^## {TITLE}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if earlier.search(card):
        new = earlier.sub(lambda _: section, card)
    else:
        at = re.search(r"^## Limits$", card, re.MULTILINE)
        where = at.start() if at else len(card)
        new = f"{card[:where].rstrip()}\n\n{section}{card[where:]}"
    return new.rstrip() + "\n"


def _section(fitted: Sequence[FittedReadout], data: str, adapted: bool) -> str:
    how = "adapted from the model's earlier ones" if adapted else "fitted"
    chose = "cross-validation on the train rows" if adapted else "the val rows"
    lines = [
        "`loev annotate` and `loev embed --annotate` read these from the subspaces, by linear",
        f"readouts {how} to {data}; {chose} chose the regularization. Scores are on the",
        "test rows, which were not used for fitting or selection; brackets are 95 % intervals",
        "from a bootstrap over groups.",
        "",
        "| readout | subspace | train, val, test tracks | test score | ECE |",
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
        "The confidence of a key is the probability that tonic and mode are both correct, that of",
        "a tempo the probability that it is correct within 4 % (Acc1). Accuracy on the test rows",
        "by confidence:",
        "",
    ]
    for each in fitted:
        lines += [
            f"| {each.name}: confidence | predictions | mean confidence | accuracy |",
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
                f"The training tempi range from {low:.0f} to {high:.0f} BPM; outside this",
                "range expect half or double the tempo. Confidences are calibrated for",
                "music like the test rows and are too high for other music.",
            ]
    return "\n".join(lines)


def _figure(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.2f}, {estimate.high:.2f}]"
