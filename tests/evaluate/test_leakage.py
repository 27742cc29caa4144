"""The refusal of every leak that the files can show."""

import numpy as np
import pytest
from scipy import sparse
from worlds import WORLD_GENES as GENES
from worlds import Picture, stub_slide

from mclstexp.errors import InputError
from mclstexp.evaluate.folds import SplitSpec, make_folds
from mclstexp.evaluate.leakage import check_leakage, spot_fingerprints
from mclstexp.slide import Slide, SpotTable


def test_a_patient_in_two_cohorts_is_a_leak():
    slides = [stub_slide("A1", "A", "x"), stub_slide("A2", "A", "y")]
    spec = SplitSpec(by="cohort")
    folds, _ = make_folds(slides, spec)
    with pytest.raises(InputError, match=r"A2 in training .* A1 are both of patient 'A'.*--by slide"):
        check_leakage(folds, spec)


def test_given_folds_that_split_a_patient_are_refused_unless_by_slide(stubs):
    pairs = (("A1", "one"), ("A2", "two"))
    folds, _ = make_folds(stubs, SplitSpec(folds=pairs))
    with pytest.raises(InputError, match="both of patient 'A'"):
        check_leakage(folds, SplitSpec(folds=pairs))
    assert "LEAKAGE" in check_leakage(folds, SplitSpec(folds=pairs, by="slide"))[0]


def test_a_copied_slide_is_refused_under_another_name_and_patient():
    slides = [stub_slide("A1", "A", seed=1), stub_slide("B1", "B", seed=1)]
    folds, _ = make_folds(slides, SplitSpec())
    with pytest.raises(InputError, match=r"100% of the spots of held-out slide A1 .* training slide B1"):
        check_leakage(folds, SplitSpec())


def test_a_copy_is_recognised_with_genes_and_spots_in_another_order():
    original = stub_slide("A1", "A")
    rng = np.random.default_rng(0)
    columns, rows = rng.permutation(len(GENES)), rng.permutation(12)[:7]
    spots = original.spots.take(rows)
    copy = SpotTable(
        spots.spot_ids,
        spots.xy_px,
        spots.array_row,
        spots.array_col,
        counts=sparse.csr_matrix(spots.counts.toarray()[:, columns]),
        genes=GENES.subset(columns),
    )
    assert np.isin(spot_fingerprints(copy), spot_fingerprints(original.spots)).all()
    folds, _ = make_folds([original, Slide("B1", "B", "x", copy, image=Picture("b"))], SplitSpec())
    with pytest.raises(InputError, match="very same counts"):
        check_leakage(folds, SplitSpec())


def test_other_counts_are_not_taken_for_a_copy():
    counts = np.random.default_rng(1).poisson(3, (12, len(GENES)))
    changed = counts.copy()
    changed[:, 0] += 1
    slides = [stub_slide("A1", "A", counts=counts), stub_slide("B1", "B", counts=changed)]
    folds, _ = make_folds(slides, SplitSpec())
    assert check_leakage(folds, SplitSpec()) == []


def test_spots_with_few_genes_do_not_count_as_copies():
    counts = np.zeros((12, len(GENES)), int)
    counts[:, :3] = 1
    slides = [stub_slide("A1", "A", counts=counts), stub_slide("B1", "B", counts=counts)]
    folds, _ = make_folds(slides, SplitSpec())
    assert check_leakage(folds, SplitSpec()) == []
    assert len(spot_fingerprints(slides[0].spots)) == 0


def test_the_same_image_file_is_refused(tmp_path):
    first, second, other = (tmp_path / name for name in ("a.tif", "b.tif", "c.tif"))
    first.write_bytes(b"the same picture")
    second.write_bytes(b"the same picture")
    other.write_bytes(b"not that picture")
    slides = [stub_slide("A1", "A", path=first), stub_slide("B1", "B", path=other)]
    folds, _ = make_folds(slides, SplitSpec())
    assert check_leakage(folds, SplitSpec()) == []
    folds, _ = make_folds([*slides, stub_slide("C1", "C", path=second)], SplitSpec())
    with pytest.raises(InputError, match="A1 and training slide C1 have the same image"):
        check_leakage(folds, SplitSpec())
