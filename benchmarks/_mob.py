"""The olfactory bulb as a second tissue, and as a foreign cohort in a HER2+ reference."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _her2st as her2st
import numpy as np
from _her2st import C

from mclstexp.errors import MclstexpError, MclstexpWarning

if TYPE_CHECKING:
    from mclstexp.index.reference import Reference
    from mclstexp.model.model import Model
    from mclstexp.panel import GenePanel
    from mclstexp.slide import Slide

MOB = ("MOB1", "MOB2")
"""Both sections of the one mouse."""

N_GENES = 500
"""Highly variable genes of the training section."""


def read(options: argparse.Namespace) -> list[Slide]:
    """Read both sections; where they are not here, say so and end the program."""
    from mclstexp.data.readers import read_slides

    folder = options.shared / "mob"
    if not folder.is_dir():
        raise SystemExit(f"the olfactory bulb is not here ({folder}); leave the protocols mob and mob-foreign out")
    return read_slides(folder, only=MOB)


def under_names_of(slide: Slide, names: Sequence[str]) -> Slide:
    """Return the slide as if it had measured other genes: its most counted gene gets the first name, and so on.

    The names are false, on purpose: under its own a mouse shares no gene with a human model, and is refused.
    """
    from mclstexp.panel import GenePanel

    counts = slide.spots.counts
    if counts is None or counts.shape[1] < len(names):
        raise SystemExit(f"{slide.slide_id} has too few genes to stand under {len(names)} names")
    most = np.argsort(-np.asarray(counts.sum(axis=0)).ravel(), kind="stable")[: len(names)]
    spots = dataclasses.replace(slide.spots, counts=counts[:, most], genes=GenePanel(tuple(names)))
    return dataclasses.replace(slide, spots=spots)


def most_counted_first(slides: Sequence[Slide], panel: GenePanel) -> list[str]:
    """Return a panel's symbols in the order of their counts over slides."""
    total = np.zeros(len(panel))
    for slide in slides:
        if slide.spots.counts is not None and slide.spots.genes is not None:
            counts = dict(
                zip(slide.spots.genes.symbols, np.asarray(slide.spots.counts.sum(axis=0)).ravel(), strict=True)
            )
            total += [counts.get(symbol, 0.0) for symbol in panel.symbols]
    return [panel.symbols[i] for i in np.argsort(-total, kind="stable")]


def asked(reference: Reference, slide: Slide, device: Any) -> dict[str, Any]:
    """Query a slide: PCC within the slide, MSE, median familiarity, and the weight of foreign neighbours."""
    from mclstexp.evaluate.methods import without_counts
    from mclstexp.evaluate.scores import SlideTruth
    from mclstexp.metrics import mean_or_none, score_genes, squared_error

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MclstexpWarning)  # they are in the notes
        prediction = reference.query(without_counts(slide), normalisation=her2st.SCALE, thumbnail=False, device=device)
    row: dict[str, Any] = {"slide": slide.slide_id, "warned": any("unlike" in text for text in prediction.notes)}
    if "familiarity" in prediction.obs:
        row["familiarity"] = float(np.median(np.asarray(prediction.obs["familiarity"], dtype=np.float64)))
    evidence = prediction.evidence
    if evidence is not None:
        weight = np.asarray(evidence["weight"], dtype=np.float64)
        foreign = np.isin(np.asarray(evidence["slide"], dtype=np.str_), MOB)
        row["foreign_weight"] = float(weight[foreign].sum() / weight.sum())
    if slide.slide_id not in MOB:
        truth = SlideTruth.of(slide, prediction.genes, her2st.SCALE).expression
        row |= {
            "pcc": mean_or_none(score_genes(truth, prediction.mean).pcc),
            "mse": squared_error(truth, prediction.mean),
        }
    return row


def refusal(folder: Path, slides: Sequence[Slide], model: Model) -> str:
    """Return what the program says when the slides are to join a reference under their own gene names."""
    from mclstexp.index.reference import Reference

    try:
        Reference.build(folder, slides, model)
    except MclstexpError as error:
        return str(error)
    return "accepted"


def run_foreign(options: argparse.Namespace) -> dict[str, Any]:
    """Leave each section of C out; ask a reference of the others, alone and with the bulb under false gene names."""
    from mclstexp.index.reference import Reference

    slides, bulb = her2st.read(options, C), read(options)
    rows: list[dict[str, Any]] = []
    said = ""
    say = her2st.pace("mob-foreign")
    for i, held_out in enumerate(slides):
        train = [slide for slide in slides if slide is not held_out]
        config = dataclasses.replace(her2st.model_config(options), normalisation=her2st.SCALE)
        model = her2st.trained(options, train, config)
        names = most_counted_first(train, model.panel)
        mixed = [*train, *(under_names_of(slide, names) for slide in bulb)]
        with tempfile.TemporaryDirectory(prefix="mst-mob-") as scratch:
            said = said or refusal(Path(scratch) / "own", [*train, *bulb], model)
            for name, members in (("C alone", train), ("C and MOB", mixed)):
                reference = Reference.build(Path(scratch) / name.replace(" ", "-"), members, model)
                queries = [held_out, *bulb] if members is train else [held_out]
                rows += [
                    {"reference": name, "held_out": held_out.slide_id, **asked(reference, q, options.device)}
                    for q in queries
                ]
        say("sections", i + 1, len(slides))
    title = "mob-foreign: leave one section of C out; the olfactory bulb in its reference, and as a query"
    keys = ["reference", "held_out", "slide", "pcc", "mse", "familiarity", "warned", "foreign_weight"]
    her2st.show(title, keys, [[row.get(key) for key in keys] for row in rows])
    print(f"under its own gene names: {said}")
    summary = compared(rows)
    print(f"with MOB under false names: PCC {summary['pcc']:+.4f}, worst section {summary['worst_pcc']:+.4f}; ", end="")
    print(f"MSE {summary['mse']:+.4f}; median familiarity: C {summary['familiarity_c']:.1f}, ", end="")
    print(f"MOB {summary['familiarity_mob']:.1f}")
    return {"title": title, "own_names": said, "summary": summary, "rows": rows}


def compared(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return what the foreign cohort changes on the held-out sections, and how familiar each tissue is."""
    own = [row for row in rows if row["slide"] == row["held_out"]]
    alone, both = ([row for row in own if row["reference"] == name] for name in ("C alone", "C and MOB"))
    change = {key: [b[key] - a[key] for a, b in zip(alone, both, strict=True)] for key in ("pcc", "mse")}
    return {
        "pcc": float(np.mean(change["pcc"])),
        "worst_pcc": min(change["pcc"]),
        "mse": float(np.mean(change["mse"])),
        "foreign_weight": float(np.mean([row["foreign_weight"] for row in both])),
        "familiarity_c": float(np.median([row["familiarity"] for row in alone])),
        "familiarity_mob": float(np.median([row["familiarity"] for row in rows if row["slide"] in MOB])),
    }
