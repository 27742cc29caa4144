"""The protocol of the mclSTExp paper and of its code, and the sections that they used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mclstexp.config import Normalisation
from mclstexp.errors import InputError
from mclstexp.evaluate.folds import SplitSpec
from mclstexp.evaluate.protocol import PUBLISHED, EvaluationProtocol
from mclstexp.slide import Slide
from mclstexp.text import some

PAPER_LEFT_OUT = ("A1", "H1", "H2", "H3")
"""Sections of HER2+ that the paper (after HisToGene's code) leaves out: 32 of 36 remain, A2 to G3."""

_SECTIONS = {"A": 6, "B": 6, "C": 6, "D": 6, "E": 3, "F": 3, "G": 3, "H": 3}

PAPER_SECTIONS = tuple(
    name
    for patient, n in _SECTIONS.items()
    for name in (f"{patient}{i + 1}" for i in range(n))
    if name not in PAPER_LEFT_OUT
)
"""The 32 sections of HER2+ that the paper reports on."""


def paper_protocol(which: Literal["paper", "paper-code"], *, genes: Sequence[str] = ()) -> EvaluationProtocol:
    """Return the protocol of the mclSTExp paper: leave one section out, other cuts of the patient in training.

    ``paper`` follows the text (counts per million of every gene, natural logarithm, genes chosen on the training side
    unless given); ``paper-code`` the published code (10,000 over the panel, log10, one fixed list of genes).

    Raises
    ------
    InputError
        When ``paper-code`` is asked for without its list of genes.
    """
    if which == "paper-code" and not genes:
        raise InputError("The protocol paper-code uses one fixed list of genes; give it with --genes FILE.")
    text = Normalisation(target_sum=1e6, total="all", log="natural")
    code = Normalisation(target_sum=1e4, total="panel", log="log10")
    return EvaluationProtocol(
        name=which,
        split=SplitSpec(by="slide"),
        genes=tuple(genes),
        n_genes=785,
        normalisation=text if which == "paper" else code,
    )


def paper_slides(slides: Sequence[Slide], *, named: bool = False) -> tuple[list[Slide], list[str]]:
    """Return the sections that the paper used of HER2+ (all slides of another data set), and notes on what differs.

    Parameters
    ----------
    slides
        The slides of a data set.
    named
        Whether somebody named these very slides: then all are kept.
    """
    if not any(slide.layout in ("her2st", "her2st_loose") for slide in slides):
        return list(slides), ["These slides are not the paper's HER2+ cohort: its protocol on other data."]
    out = [slide.slide_id for slide in slides if slide.slide_id in PAPER_LEFT_OUT and not named]
    kept = [slide for slide in slides if slide.slide_id not in out]
    notes = [f"Left out as in the paper: {', '.join(out)}."] if out else []
    usable = [slide.slide_id for slide in kept if slide.image is not None and slide.slide_id in PAPER_SECTIONS]
    if len(usable) < len(PAPER_SECTIONS):
        absent = [name for name in PAPER_SECTIONS if name not in usable]
        notes.append(
            f"A reduced run: {len(usable)} of the paper's {len(PAPER_SECTIONS)} sections take part with an image, "
            f"{some(absent)} do not; the paper's figures are of all of them."
        )
    return kept, notes


def describe_protocol(protocol: EvaluationProtocol) -> str:
    """Say what a published protocol is, and in what it was changed; another is its name alone."""
    if protocol.name not in PUBLISHED:
        return protocol.name
    if protocol.name == "paper":
        text = (
            "as the mclSTExp paper says: one section out with other cuts of its patient in training, counts per million"
        )
        published = paper_protocol("paper", genes=protocol.genes)
    else:
        text = "as mclSTExp's published code does: one section out with other cuts of its patient in training, one list"
        published = paper_protocol("paper-code", genes=protocol.genes)
    same = {
        "split": published.split == protocol.split,
        "scale": published.normalisation == protocol.normalisation,
        "number of genes": published.n_genes == protocol.n_genes or bool(protocol.genes),
    }
    changed = [what for what, as_published in same.items() if not as_published]
    return f"{protocol.name}, {text}" + (f"; CHANGED: {', '.join(changed)}" if changed else "")
