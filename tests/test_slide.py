"""Slides and spots: what they print, what they ask for, and the names that they refuse."""

import numpy as np
import pytest
from scipy import sparse

from mclstexp.errors import InputError
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide, SpotTable
from mclstexp.text import some

INDEX = np.arange(4)
XY = np.stack([INDEX, INDEX], axis=1) * 100.0
BARE = SpotTable(INDEX.astype(str), XY, INDEX, INDEX)
COUNTED = SpotTable(
    INDEX.astype(str), XY, INDEX, INDEX, counts=sparse.csr_matrix(np.ones((4, 2))), genes=GenePanel(("A", "B"))
)


class Picture:
    size_px = (9274, 9911)


def test_reprs_tell_a_person_what_it_is():
    assert repr(BARE) == "SpotTable(4 spots, no counts)"
    assert repr(COUNTED) == "SpotTable(4 spots, 2 genes)"
    labelled = SpotTable(INDEX.astype(str), XY, INDEX, INDEX, labels=np.array(["a"] * 4))
    assert repr(labelled) == "SpotTable(4 spots, no counts, labelled)"
    slide = Slide("C2", "C", "her2st", COUNTED, image=Picture(), mpp=0.6884, mpp_source="pitch")
    assert repr(slide) == "Slide('C2', patient C of her2st, 4 spots, 2 genes, image 9274x9911 px at 0.688 um)"
    assert repr(Slide("S", "", "", BARE)) == "Slide('S', patient unknown, 4 spots, no counts, no image)"
    unknown = Slide("S", "", "x", BARE, image=Picture())
    assert "patient unknown of x" in repr(unknown)
    assert "of unknown pixel size" in repr(unknown)


def test_counts_are_given_or_asked_for_by_name():
    counts, genes = COUNTED.require_counts()
    assert (counts.shape, genes.symbols) == ((4, 2), ("A", "B"))
    assert Slide("S", "", "", COUNTED).require_counts()[1] == genes
    with pytest.raises(InputError, match=r"^The spots have no counts\.$"):
        BARE.require_counts()
    with pytest.raises(InputError, match=r"^Slide S has no counts\.$"):
        Slide("S", "", "", BARE).require_counts()


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x", "a/b", "a\\b", "a\nb", "a\0"])
def test_names_that_cannot_be_a_files_are_refused(name):
    with pytest.raises(InputError) as caught:
        Slide(name, "", "", BARE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mpp", [float("nan"), float("inf"), 0.0, -1.0, 352.8])
def test_absurd_pixel_sizes_are_refused(mpp):
    with pytest.raises(InputError, match=r"outside 0\.1 to 10"):
        Slide("S", "", "", BARE, mpp=mpp, mpp_source="given")


def test_some_names():
    assert some([]) == ""
    assert some(["a", "b"]) == "a, b"
    assert some(["a", "b", "c"], 2) == "a, b and 1 more"
    assert some((str(i) for i in range(20)), limit=3) == "0, 1, 2 and 17 more"
