"""One spot's evidence: its neighbours, what they sum to, and how much they say, in plain sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mclstexp.predict.contributions import GROUPS, GeneSource, Group, summed
from mclstexp.predict.evidence import spot_neighbours
from mclstexp.predict.prediction import Prediction
from mclstexp.predict.weights import EVEN, effective_neighbours

SHARES = {"share_neighbours": "the neighbours' mean", "share_correction": "the linear correction",
          "share_level": "the slide's level"}  # fmt: skip
"""Columns of a prediction's ``obs`` that say where its departure from the reference's mean comes from."""


@dataclass(frozen=True)
class GeneAtSpot:
    """A gene at a spot: expected, the neighbours' mean that contributions sum to, the interval; None where unknown."""

    symbol: str
    scale: str
    expected: float | None
    retrieved: float | None
    interval: tuple[float, float] | None
    level: float


@dataclass(frozen=True, eq=False)
class SpotEvidence:
    """What a spot's prediction was made from.

    Attributes
    ----------
    slide, spot
        Of the query.
    neighbours
        As `Prediction.neighbours` returns them.
    n_effective
        Effective number of neighbours: 1 / sum of squared weights.
    shares
        Share of each part in the departure from the reference's mean, by the names of ``SHARES``; empty where the
        prediction did not record them.
    sums
        Neighbours, weight and contribution by slide, patient and cohort.
    gene
        The gene asked for, or None.
    """

    slide: str
    spot: str
    neighbours: pd.DataFrame
    n_effective: float
    shares: dict[str, float]
    sums: dict[Group, pd.DataFrame]
    gene: GeneAtSpot | None = None

    @property
    def even(self) -> bool:
        """Whether the weights are so even that no single neighbour matters."""
        return len(self.neighbours) > 1 and self.n_effective > EVEN * len(self.neighbours)

    def sentences(self) -> list[str]:
        """Say how much the neighbours say, a sentence each."""
        k, (slides, patients) = len(self.neighbours), (len(self.sums["slide"]), len(self.sums["patient"]))
        text = [
            f"{self.spot} of {self.slide}: {_n(k, 'neighbour')} from {_n(slides, 'slide')} of "
            f"{_n(patients, 'patient')}, effective number {self.n_effective:.0f}."
        ]
        if self.even:
            text.append(
                "The weights are nearly even: no single neighbour matters, and what they say is close to the plain "
                f"mean of all {k}."
            )
        return [*text, self._shares_sentence(), *self._gene_sentences()]

    def _shares_sentence(self) -> str:
        if not self.shares:
            return (
                "How much of the prediction comes from the neighbours' mean, the correction and the slide's level was "
                "not recorded."
            )
        parts = [f"{self.shares[name]:.0%} from {SHARES[name]}" for name in SHARES]
        return f"Its departure from the reference's mean comes {parts[0]}, {parts[1]} and {parts[2]}."

    def _gene_sentences(self) -> list[str]:
        gene = self.gene
        if gene is None:
            return []
        text = []
        total = float(np.nansum(self.neighbours["contribution"]))
        if not np.isfinite(self.neighbours["contribution"]).any():
            text.append(f"{gene.symbol}: too few of the neighbours measured it.")
        elif gene.expected is None:
            text.append(f"{gene.symbol}: {total:.3f} from the neighbours; it is not among the predicted genes.")
        else:
            rest = gene.expected - (total if gene.retrieved is None else gene.retrieved)
            more = f", {rest:+.3f} from correction and level" if gene.retrieved is not None else ""
            text.append(
                f"{gene.symbol}: expected {gene.expected:.3f}, of which {total:.3f} from the neighbours{more}; "
                f"{gene.scale}."
            )
        if gene.interval is not None:
            text.append(f"Its {gene.level:.0%} interval is {gene.interval[0]:.2f} to {gene.interval[1]:.2f}.")
        unmeasured = int(self.neighbours["value"].isna().sum())
        if unmeasured:
            text.append(f"{unmeasured} of {len(self.neighbours)} neighbours did not measure it and have no part in it.")
        return text

    def to_json(self, top: int | None = None) -> dict[str, Any]:
        """Return plain JSON values; NaN becomes null."""
        rows = self.neighbours.reset_index() if top is None else self.neighbours.head(top).reset_index()
        return {
            "slide": self.slide,
            "spot": self.spot,
            "n_neighbours": len(self.neighbours),
            "n_effective": self.n_effective,
            "even": self.even,
            "shares": self.shares or None,
            "gene": None if self.gene is None else dict(vars(self.gene)),
            "notes": self.sentences(),
            "by": {by: records(table.reset_index()) for by, table in self.sums.items()},
            "neighbours": records(rows),
        }


def spot_evidence(
    prediction: Prediction, spot: str, gene: str | None = None, reference: GeneSource | None = None
) -> SpotEvidence:
    """Gather what a spot's prediction was made from.

    Parameters
    ----------
    gene, reference
        As in `Prediction.neighbours`.

    Raises
    ------
    InputError, MismatchError
        As `Prediction.neighbours`.
    """
    frame = prediction.neighbours(spot, gene, reference)
    rows = spot_neighbours(prediction.evidence, spot, prediction.slide_id)
    contribution = frame["contribution"].to_numpy() if gene is not None else None
    i = int(np.flatnonzero(prediction.spot_ids == spot)[0])
    known = all(name in prediction.obs for name in SHARES)
    shares = {name: float(prediction.obs[name][i]) for name in SHARES} if known else {}
    return SpotEvidence(
        slide=prediction.slide_id,
        spot=spot,
        neighbours=frame,
        n_effective=float(effective_neighbours(frame["weight"].to_numpy()[None])[0]),
        shares=shares if all(np.isfinite(list(shares.values()))) else {},
        sums={by: summed(rows, by, contribution) for by in GROUPS},
        gene=None if gene is None else _gene_at(prediction, i, gene),
    )


def _gene_at(prediction: Prediction, spot: int, gene: str) -> GeneAtSpot:
    column = prediction.genes.find(gene)
    level = float(prediction.settings.get("interval_level", 0.9))
    if column is None:
        return GeneAtSpot(gene, prediction.scale, None, None, None, level)

    def at(values: Any) -> float | None:
        value = np.nan if values is None else float(values[spot, column])
        return value if np.isfinite(value) else None

    low, high = at(prediction.lower), at(prediction.upper)
    return GeneAtSpot(
        symbol=prediction.genes.symbols[column],
        scale=prediction.scale,
        expected=at(prediction.mean),
        retrieved=at(prediction.retrieved),
        interval=None if low is None or high is None else (low, high),
        level=level,
    )


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table's rows as plain values; NaN becomes None."""
    return [
        {
            str(name): None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in row.items()
        }
        for row in table.to_dict(orient="records")
    ]


def _n(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
