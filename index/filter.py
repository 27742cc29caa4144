"""Which reference spots may be neighbours, and which genes may be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mclstexp.errors import InputError
from mclstexp.index.store.condition import one_condition
from mclstexp.index.store.store import ReferenceStore
from mclstexp.panel import GenePanel
from mclstexp.text import some
from mclstexp.types import BoolArray


@dataclass(frozen=True)
class Filter:
    """Which reference spots may be neighbours.

    Attributes
    ----------
    exclude_patients, exclude_slides
        Names of patients and slides to leave out.
    only_cohorts
        Take neighbours from these cohorts only.
    where
        An SQL condition on the spot columns.

    Examples
    --------
    >>> Filter(exclude_patients=("B",), where="total_counts > 500")
    Filter(exclude_patients=('B',), exclude_slides=(), only_cohorts=(), where='total_counts > 500')
    """

    exclude_patients: tuple[str, ...] = ()
    exclude_slides: tuple[str, ...] = ()
    only_cohorts: tuple[str, ...] = ()
    where: str | None = None

    def __post_init__(self) -> None:
        for name in ("exclude_patients", "exclude_slides", "only_cohorts"):
            names = getattr(self, name)
            object.__setattr__(self, name, (names,) if isinstance(names, str) else tuple(names))
        if self.where is not None:
            one_condition(self.where)


def allowed_rows(store: ReferenceStore, condition: Filter | None) -> BoolArray | None:
    """Return truth by row id for a filter; None when every spot is allowed.

    Raises
    ------
    InputError
        When the filter names what is not in the reference, or leaves no spot.
    """
    if condition is None or condition == Filter():
        return None
    entries = store.entries
    _check_names("patient", condition.exclude_patients, {entry.patient for entry in entries})
    _check_names("slide", condition.exclude_slides, {entry.slide_id for entry in entries})
    _check_names("cohort", condition.only_cohorts, {entry.cohort for entry in entries})
    mask = np.zeros(store.n_ids, dtype=bool)
    for entry in entries:
        out = entry.patient in condition.exclude_patients or entry.slide_id in condition.exclude_slides
        if not out and (not condition.only_cohorts or entry.cohort in condition.only_cohorts):
            mask[slice(*entry.rows)] = True
    if condition.where:
        matching = np.zeros_like(mask)
        matching[store.matching(condition.where)] = True
        mask &= matching
    if not mask.any():
        raise InputError("The filter leaves no reference spot; loosen it.")
    return mask


def _check_names(kind: str, names: Sequence[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"The reference has no {kind} {name!r}; it has {some(sorted(known))}.")


def choose_genes(store: ReferenceStore, genes: GenePanel | Sequence[str] | Literal["all"] | None) -> GenePanel:
    """Return the genes to predict: the model's panel, all that were measured, or those named by symbol or Ensembl id.

    Raises
    ------
    InputError
        For a named gene that no slide of the reference measured, or whose counts were left out.
    """
    if genes is None:
        return store.identity.panel
    if isinstance(genes, GenePanel):
        if (store.identity.panel.columns(genes) < 0).any():
            store.require_counts("A gene beside the panel")
        return genes
    known = store.genes
    named = [genes] if isinstance(genes, str) else list(genes)
    if named == ["all"]:
        return known
    columns = []
    for name in dict.fromkeys(named):
        column = known.find(name)
        if column is None:
            store.require_counts(f"Gene {name!r}")
            near = ", ".join(known.near(name))
            raise InputError(
                f"Gene {name!r} was measured by no slide of the reference{f'; near: {near}' if near else ''}; "
                "mst info --genes lists its genes."
            )
        columns.append(column)
    return known.subset(list(dict.fromkeys(columns)))
