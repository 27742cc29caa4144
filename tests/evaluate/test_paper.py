"""The paper's protocols, and the sections that it used."""

from dataclasses import replace

import pytest

from mclstexp.config import Normalisation
from mclstexp.errors import InputError
from mclstexp.evaluate.folds import SplitSpec
from mclstexp.evaluate.paper import PAPER_SECTIONS, describe_protocol, paper_protocol, paper_slides
from mclstexp.evaluate.protocol import EvaluationProtocol

SCALE = Normalisation()


def test_the_papers_protocols():
    text, code = paper_protocol("paper"), paper_protocol("paper-code", genes=["A", "B"])
    assert text.normalisation == Normalisation(1e6, "all", "natural")
    assert code.normalisation == Normalisation(1e4, "panel", "log10")
    assert text.split.by == code.split.by == "slide"
    with pytest.raises(InputError, match="--genes"):
        paper_protocol("paper-code")


def test_a_protocol_says_what_it_is_and_in_what_it_was_changed():
    text = describe_protocol(paper_protocol("paper"))
    assert "counts per million" in text
    assert "CHANGED" not in text
    changed = replace(paper_protocol("paper"), split=SplitSpec(by="patient"), n_genes=50)
    assert describe_protocol(changed).endswith("CHANGED: split, number of genes")
    code = replace(paper_protocol("paper-code", genes=["A"]), normalisation=SCALE)
    assert describe_protocol(code).endswith("CHANGED: scale")
    assert "published code" in describe_protocol(code)
    assert describe_protocol(EvaluationProtocol()) == "default"
    assert describe_protocol(EvaluationProtocol("her2st")) == "her2st"


def test_the_paper_leaves_four_sections_of_her2st_out(world):
    slides = [replace(world.slides[0], slide_id=name, layout="her2st") for name in ("A1", "A2", "H1", "G3")]
    kept, notes = paper_slides(slides)
    assert [s.slide_id for s in kept] == ["A2", "G3"]
    assert notes[0] == "Left out as in the paper: A1, H1."
    assert "2 of the paper's 32 sections" in notes[1]
    assert "A3, A4" in notes[1]
    kept, notes = paper_slides(slides, named=True)
    assert kept == slides
    assert "2 of the paper's 32" in notes[0]
    everything = [replace(world.slides[0], slide_id=name, layout="her2st") for name in (*PAPER_SECTIONS, "H3")]
    kept, notes = paper_slides(everything)
    assert (len(kept), notes) == (32, ["Left out as in the paper: H3."])
    kept, notes = paper_slides(world.slides)
    assert kept == world.slides
    assert "not the paper's HER2+ cohort" in notes[0]
