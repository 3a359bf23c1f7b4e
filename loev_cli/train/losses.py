"""The LOEV losses (Guinot et al., ICASSP 2025; Khosla et al. 2020 for several positives).

    L_h(a) = -1/|P_h(a)| * sum over b in P_h(a) of
             log( exp(s_ab / tau) / sum over c != a of exp(s_ac / tau) )

R rows are views; row a has a track, and for every equivariant augmentation k a *draw*: 0 if
augmentation k left it alone, otherwise a number that two views of one track share exactly if
they were changed by the same parameters. Which rows are positives of each other is all that
tells the methods apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from loev_cli.model import INVARIANT, Method

ViewScheme = Literal["shared", "independent"]
VIEW_SCHEMES: tuple[ViewScheme, ...] = get_args(ViewScheme)

# Keeps log() finite where a positive has no probability left; the research code has it, and it
# is below what float32 sees anywhere else.
EPSILON_PROBABILITY = 1e-6


@dataclass(frozen=True)
class ViewLabels:
    """What is known of R views.

    Attributes:
        track: (R,) int64, which track a view was cut from.
        draws: augmentation -> (R,) int64, see the module's text. Of one whose variants a manifest
            names, the variant.
        across_tracks: augmentations of which one draw means the same in every track.
    """

    track: Tensor
    draws: Mapping[str, Tensor]
    across_tracks: Collection[str] = ()


def positives(head: str, labels: ViewLabels, *, method: Method, scheme: ViewScheme) -> Tensor:
    """Mask (R, R): is column b a positive of row a for this head? Never on the diagonal.

    ``invariant``: every other view of the same track. Head k of ``looc`` (Xiao et al. 2021), and
    of every method in the `shared` scheme: same track, same draw of augmentation k. Head k of
    ``loev`` and ``loev++`` in the `independent` scheme: same track, and neither view changed by
    augmentation k. ``labels.across_tracks``: same draw, whichever the track.
    """
    same_track = labels.track[:, None] == labels.track[None, :]
    if head == INVARIANT:
        return same_track.fill_diagonal_(False)
    draw = labels.draws[head]
    mask = (draw[:, None] == draw[None, :]).fill_diagonal_(False)
    if head not in labels.across_tracks:
        mask &= same_track
    if method != "looc" and scheme == "independent":
        mask &= (draw == 0)[:, None]
    return mask


def contrastive_loss(
    projections: Tensor, positive: Tensor, *, temperature: float, count_empty_rows: bool
) -> Tensor:
    """Loss of one head, a scalar.

    Args:
        projections: (R, P), need not be normalized.
        positive: (R, R) bool, from :func:`positives`.
        temperature: tau.
        count_empty_rows: rows without a positive count as zero in the mean (the paper's code) or
            are left out of it.
    """
    z = F.normalize(projections, dim=1)
    similarity = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_probability = F.log_softmax(similarity.masked_fill(itself, -torch.inf), dim=1)
    per_pair = -torch.log(log_probability.exp() + EPSILON_PROBABILITY)
    n_positives = positive.sum(dim=1)
    per_row = per_pair.masked_fill(~positive, 0.0).sum(dim=1) / n_positives.clamp(min=1)
    if count_empty_rows:
        return per_row.mean()
    return per_row.sum() / (n_positives > 0).sum().clamp(min=1)


def loev_losses(
    projections: Mapping[str, Tensor],
    labels: ViewLabels,
    *,
    method: Method,
    scheme: ViewScheme,
    temperature: float,
) -> dict[str, Tensor]:
    """Loss per head; the training loss is their mean.

    Args:
        projections: head -> (R, P).
    """
    return {
        head: contrastive_loss(
            z,
            positives(head, labels, method=method, scheme=scheme),
            temperature=temperature,
            count_empty_rows=scheme == "independent",
        )
        for head, z in projections.items()
    }


def mean_loss(losses: Mapping[str, Tensor]) -> Tensor:
    """Mean over heads."""
    return torch.stack(list(losses.values())).mean()
