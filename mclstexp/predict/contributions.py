"""What neighbours contribute: their weights by slide, patient and cohort, and their part of a gene's mean."""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from mclstexp.config import Normalisation
from mclstexp.errors import InputError
from mclstexp.types import FloatArray

Group = Literal["slide", "patient", "cohort"]
"""What weights are summed by."""

GROUPS: tuple[Group, ...] = get_args(Group)

UNKNOWN = "unknown"
"""Stands for a cohort that has no name."""


class GeneSource(Protocol):
    """What a prediction asks of the reference that it was made from. `mclstexp.Reference` fulfils it."""

    def values_of(self, neighbours: pa.Table, gene: str, normalisation: Normalisation) -> FloatArray:
        """Return ``(n,)`` float32 expression of a gene at rows of a table of neighbours; NaN where not measured."""
        ...


def group_names(neighbours: pa.Table, by: Group) -> pa.Array:
    """Name the slide, patient or cohort of each row of a table of neighbours.

    Patients of several cohorts carry the cohort's name, and a slide of an unknown patient is a patient of its own.

    Raises
    ------
    InputError
        When ``by`` is none of the three.
    """
    if by not in GROUPS:
        raise InputError(f"Neighbours are summed by {', '.join(GROUPS)}, not by {by!r}.")
    slide, names = neighbours["slide"].to_pylist(), neighbours["cohort"].to_pylist()
    if by == "slide":
        return pa.array(slide, pa.string())
    cohort = [name or UNKNOWN for name in names]
    if by == "cohort":
        return pa.array(cohort, pa.string())
    several = len(set(cohort)) > 1
    known = {
        key: (f"{key[0]} ({key[1]})" if several else key[0]) if key[0] else f"{UNKNOWN} ({key[2]})"
        for key in set(zip(neighbours["patient"].to_pylist(), cohort, slide, strict=True))
    }
    return pa.array(
        [known[key] for key in zip(neighbours["patient"].to_pylist(), cohort, slide, strict=True)], pa.string()
    )


def weights_by(neighbours: pa.Table, spots: list[str], by: Group) -> pd.DataFrame:
    """Sum each query spot's weights by slide, patient or cohort.

    Returns
    -------
    pandas.DataFrame
        A row a spot of ``spots``, a column a group, the heaviest on the whole first; rows sum to one, or to 0 for a
        spot without neighbours.
    """
    frame = pd.DataFrame(
        {
            "spot": neighbours["query_spot"].to_pandas(),
            "group": group_names(neighbours, by).to_pandas(),
            "weight": neighbours["weight"].to_numpy().astype(np.float64),
        }
    )
    table: pd.DataFrame = frame.pivot_table(index="spot", columns="group", values="weight", aggfunc="sum", fill_value=0)
    table = table.reindex(spots, fill_value=0.0)
    total = table.sum(axis=0)
    order = sorted(table.columns, key=lambda name: (-total[name], name))
    return table[order].rename_axis(index="spot", columns=by)


def summed(neighbours: pa.Table, by: Group, contribution: FloatArray | None = None) -> pd.DataFrame:
    """Sum one spot's neighbours by slide, patient or cohort, the heaviest first.

    Returns
    -------
    pandas.DataFrame
        A row a group: ``neighbours`` (how many), ``weight``, and with ``contribution`` ``(n,)`` its sum.
    """
    columns: dict[str, Any] = {
        by: group_names(neighbours, by).to_pandas(),
        "neighbours": 1,
        "weight": neighbours["weight"].to_numpy().astype(np.float64),
    }
    if contribution is not None:
        columns["contribution"] = np.nan_to_num(contribution.astype(np.float64))
    table: pd.DataFrame = pd.DataFrame(columns).groupby(by).sum()
    return table.loc[sorted(table.index, key=lambda name: (-table["weight"][name], name))]


def gene_contributions(weight: FloatArray, value: FloatArray, min_measured: float) -> FloatArray:
    """Divide a gene's weighted mean among the neighbours: weight x value, over the weight of those that measured it.

    Parameters
    ----------
    weight, value
        ``(k,)`` weights, and the gene's expression; NaN where it was not measured.
    min_measured
        Share of the weight below which the gene counts as unknown.

    Returns
    -------
    ``(k,)`` float32; NaN where not measured, and everywhere when the gene is unknown. The others sum to the mean.

    Examples
    --------
    >>> gene_contributions(np.array([0.5, 0.25, 0.25]), np.array([3.0, np.nan, 1.5]), 0.25).tolist()
    [2.0, nan, 0.5]
    """
    known = np.isfinite(value)
    total = float(weight[known].sum(dtype=np.float64))
    if total <= 0 or total < min_measured:
        return np.full(len(weight), np.nan, dtype=np.float32)
    return np.where(known, weight * value / total, np.nan).astype(np.float32)
