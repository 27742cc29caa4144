"""What is said of a prediction whose spots or pixel size look wrong."""

from types import SimpleNamespace

import numpy as np
import pytest

from mclstexp.index.doubts import foreign, unfamiliar, unlike_pixel_size
from mclstexp.slide import Slide, SpotTable


@pytest.mark.parametrize(
    ("low", "said"),
    [(0, None), (20, None), (21, "21 of 100 patches"), (49, "49 of 100 patches"), (51, "median familiarity")],
)
def test_a_share_of_unfamiliar_patches_is_told_where_the_median_is_not(low, said):
    percentile = np.r_[np.full(low, 1.0), np.full(100 - low, 60.0)].astype(np.float32)
    notes = unfamiliar(np.random.default_rng(0).permutation(percentile))
    assert [said in note for note in notes] == ([True] if said else [])
    assert all(note.startswith("Warning: ") for note in notes)
    assert unfamiliar(np.full(5, np.nan, dtype=np.float32)) == []


def query(mpp, source):
    spots = SpotTable(["a", "b"], [[1.0, 1.0], [2.0, 2.0]], [0, 0], [0, 1])
    return Slide("q", "", "", spots, mpp=mpp, mpp_source=source)


def test_a_pixel_size_from_the_pitch_that_no_slide_of_the_reference_has():
    entries = [SimpleNamespace(mpp=mpp, has_image=True) for mpp in (0.686, 0.688, 0.917)]
    (note,) = unlike_pixel_size(query(0.858, "pitch"), entries)
    assert "0.858 um follows from the distance between spots alone" in note
    assert "0.686 to 0.917" in note
    assert "--mpp" in note
    quiet = [query(0.69, "pitch"), query(0.9, "pitch"), query(0.858, "file"), query(0.858, "given"), query(None, None)]
    assert all(unlike_pixel_size(slide, entries) == [] for slide in quiet)
    assert unlike_pixel_size(query(0.858, "pitch"), [SimpleNamespace(mpp=0.5, has_image=False)]) == []


def test_a_slide_unlike_those_that_trained_the_model_is_said_when_it_is_added():
    slide = query(0.7, "file")
    (note,) = foreign(slide, np.full(9, 2.0, dtype=np.float32))
    assert "Slide q is unlike" in note
    assert "--only-cohort" in note
    assert foreign(slide, np.full(9, 30.0, dtype=np.float32)) == foreign(slide, None) == []
