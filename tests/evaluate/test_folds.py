"""Folds, given and made, and the refusal of every leak that the files can show."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from mclstexp.errors import InputError
from mclstexp.evaluate.folds import SplitSpec, make_folds, read_folds
from mclstexp.evaluate.leakage import check_leakage, spot_fingerprints
from mclstexp.panel import GenePanel
from mclstexp.slide import Slide, SpotTable

GENES = GenePanel(tuple(f"G{i}" for i in range(60)))


class Picture:
    """Stands for an image that is never read."""

    def __init__(self, path):
        self.path = Path(path)


def make_slide(name, patient="P", cohort="H", *, image=True, counts=None, seed=None, path=None):
    rng = np.random.default_rng(zlib.crc32(name.encode()) if seed is None else seed)
    n = 12
    table = rng.poisson(3, (n, len(GENES))) if counts is None else counts
    spots = SpotTable(
        spot_ids=np.array([f"s{i}" for i in range(n)]),
        xy_px=np.stack([np.arange(n) * 100.0, np.zeros(n)], axis=1),
        array_row=np.zeros(n, int),
        array_col=np.arange(n),
        counts=None if table is None or table is False else sparse.csr_matrix(table),
        genes=None if table is False else GENES,
    )
    picture = Picture(path or f"{name}.tif") if image else None
    return Slide(name, patient, cohort, spots, image=picture)


def shape(folds):
    return {f.name: ([s.slide_id for s in f.train], [s.slide_id for s in f.test]) for f in folds}


@pytest.fixture
def cohort():
    return [
        make_slide("A1", "A", "x"),
        make_slide("A2", "A", "x"),
        make_slide("B1", "B", "x"),
        make_slide("B2", "B", "x", image=False),
        make_slide("C1", "C", "y"),
        make_slide("C2", "C", "y", image=False),
        make_slide("D1", "D", "y", image=False),
    ]


def test_one_patient_is_left_out_at_a_time(cohort):
    folds, notes = make_folds(cohort, SplitSpec())
    assert shape(folds) == {
        "A": (["B1", "B2", "C1", "C2", "D1"], ["A1", "A2"]),
        "B": (["A1", "A2", "C1", "C2", "D1"], ["B1"]),
        "C": (["A1", "A2", "B1", "B2", "D1"], ["C1"]),
    }
    assert [s.slide_id for s in folds[0].train_with_image] == ["B1", "C1"]
    assert "3 of 7 slides have no image" in notes[0]
    assert "B2, C2, D1" in notes[0]
    assert check_leakage(folds, SplitSpec()) == []


def test_by_slide_is_allowed_and_shouted(cohort):
    folds, _ = make_folds(cohort, SplitSpec(by="slide"))
    assert shape(folds)["B1"] == (["A1", "A2", "B2", "C1", "C2", "D1"], ["B1"])
    (warning,) = check_leakage(folds, SplitSpec(by="slide"))
    assert warning.startswith("LEAKAGE BY DESIGN")
    assert "B1 (1 others of patient B)" in warning
    assert "--by patient" in warning


def test_by_cohort(cohort):
    folds, _ = make_folds(cohort, SplitSpec(by="cohort"))
    assert shape(folds) == {
        "x": (["C1", "C2", "D1"], ["A1", "A2", "B1"]),
        "y": (["A1", "A2", "B1", "B2"], ["C1"]),
    }


def test_a_patient_in_two_cohorts_is_a_leak():
    slides = [make_slide("A1", "A", "x"), make_slide("A2", "A", "y")]
    spec = SplitSpec(by="cohort")
    folds, _ = make_folds(slides, spec)
    with pytest.raises(InputError, match=r"A2 in training .* A1 are both of patient 'A'.*--by slide"):
        check_leakage(folds, spec)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ABCD"), st.booleans()), min_size=2, max_size=9))
def test_every_slide_with_an_image_is_held_out_once_and_no_patient_crosses(rows):
    slides = [make_slide(f"{p}{i}", p, image=image) for i, (p, image) in enumerate(rows)]
    if len({s.patient for s in slides if s.image}) < 2:
        with pytest.raises(InputError):
            make_folds(slides, SplitSpec())
        return
    folds, _ = make_folds(slides, SplitSpec())
    held_out = [s.slide_id for f in folds for s in f.test]
    assert sorted(held_out) == sorted(s.slide_id for s in slides if s.image)
    for fold in folds:
        assert not {s.patient for s in fold.train} & {s.patient for s in fold.test}


def test_one_patient_alone_asks_for_by_slide():
    with pytest.raises(InputError, match=r"at least 2 patients.*'P'.*--by slide"):
        make_folds([make_slide("P1"), make_slide("P2"), make_slide("Q1", "Q", image=False)], SplitSpec())


def test_an_unknown_patient_is_named_with_the_way_to_give_it():
    slides = [make_slide("A1", "A"), make_slide("X1", ""), make_slide("B1", "B")]
    with pytest.raises(InputError, match=r"patient of 1 of 3 slides is unknown \(X1\).*slides\.csv"):
        make_folds(slides, SplitSpec())
    folds, _ = make_folds(slides, SplitSpec(by="slide"))
    assert "The patient of 1 slides is unknown" in check_leakage(folds, SplitSpec(by="slide"))[0]


def test_slides_without_counts_take_no_part_and_are_named(cohort):
    folds, notes = make_folds([*cohort, make_slide("Q1", "Q", counts=False)], SplitSpec())
    assert "Q" not in shape(folds)
    assert "1 slides without counts take no part: Q1." in notes
    with pytest.raises(InputError, match="None of 1 slides"):
        make_folds([make_slide("Q1", "Q", counts=False)], SplitSpec())


def test_given_folds(cohort):
    pairs = (("A1", "one"), ("A2", "one"), ("B1", "two"), ("B2", "two"))
    folds, notes = make_folds(cohort, SplitSpec(folds=pairs))
    assert shape(folds) == {"one": (["B1", "B2"], ["A1", "A2"]), "two": (["A1", "A2"], ["B1"])}
    assert "3 slides are in no given fold and take no part: C1, C2, D1." in notes


def test_given_folds_that_split_a_patient_are_refused_unless_by_slide(cohort):
    pairs = (("A1", "one"), ("A2", "two"))
    folds, _ = make_folds(cohort, SplitSpec(folds=pairs))
    with pytest.raises(InputError, match="both of patient 'A'"):
        check_leakage(folds, SplitSpec(folds=pairs))
    assert "LEAKAGE" in check_leakage(folds, SplitSpec(folds=pairs, by="slide"))[0]


def test_explicit_train_and_test(cohort):
    folds, _ = make_folds(cohort, SplitSpec(train=("A1", "C2"), test=("B1",)))
    assert shape(folds) == {"B1": (["A1", "C2"], ["B1"])}
    folds, _ = make_folds(cohort, SplitSpec(test=("B1",)))
    assert shape(folds) == {"B1": (["A1", "A2", "B2", "C1", "C2", "D1"], ["B1"])}
    folds, _ = make_folds(cohort, SplitSpec(train=("A1", "A2")))
    assert shape(folds) == {"all but A1,A2": (["A1", "A2"], ["B1", "C1"])}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"train": ("A1",), "test": ("A1",)}, "both --train and --test"),
        ({"test": ("Z9",)}, "--test names slide 'Z9'"),
        ({"train": ("Z9",)}, "--train names slide 'Z9'"),
        ({"test": ("B2",)}, "B2 has no image"),
        ({"train": ("B2",), "test": ("A1",)}, "no slide with an image to train on"),
        ({"folds": (("Z9", "1"), ("A1", "2"))}, "folds names slide 'Z9'"),
        ({"folds": (("A1", "1"), ("A1", "2"))}, "'A1' more than once"),
        ({"folds": (("A1", "1"), ("B2", "2"))}, "Folds with images: 1"),
    ],
)
def test_splits_that_cannot_be_made_say_why(cohort, spec, says):
    with pytest.raises(InputError, match=says) as error:
        make_folds(cohort, SplitSpec(**spec))
    assert "\n" not in str(error.value)


def test_a_split_is_of_one_kind():
    with pytest.raises(InputError, match="exclude each other"):
        SplitSpec(folds=(("A1", "1"),), test=("A1",))
    with pytest.raises(InputError, match="'spot'"):
        SplitSpec(by="spot")


def test_repeated_slide_ids_are_refused():
    with pytest.raises(InputError, match="'A1'"):
        make_folds([make_slide("A1", "A"), make_slide("A1", "B")], SplitSpec())


def test_a_copied_slide_is_refused_under_another_name_and_patient():
    slides = [make_slide("A1", "A", seed=1), make_slide("B1", "B", seed=1)]
    folds, _ = make_folds(slides, SplitSpec())
    with pytest.raises(InputError, match=r"100% of the spots of held-out slide A1 .* training slide B1"):
        check_leakage(folds, SplitSpec())


def test_a_copy_is_recognised_with_genes_and_spots_in_another_order():
    original = make_slide("A1", "A")
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
    slides = [make_slide("A1", "A", counts=counts), make_slide("B1", "B", counts=changed)]
    folds, _ = make_folds(slides, SplitSpec())
    assert check_leakage(folds, SplitSpec()) == []


def test_spots_with_few_genes_do_not_count_as_copies():
    counts = np.zeros((12, len(GENES)), int)
    counts[:, :3] = 1
    slides = [make_slide("A1", "A", counts=counts), make_slide("B1", "B", counts=counts)]
    folds, _ = make_folds(slides, SplitSpec())
    assert check_leakage(folds, SplitSpec()) == []
    assert len(spot_fingerprints(slides[0].spots)) == 0


def test_the_same_image_file_is_refused(tmp_path):
    first, second, other = (tmp_path / name for name in ("a.tif", "b.tif", "c.tif"))
    first.write_bytes(b"the same picture")
    second.write_bytes(b"the same picture")
    other.write_bytes(b"not that picture")
    slides = [make_slide("A1", "A", path=first), make_slide("B1", "B", path=other)]
    folds, _ = make_folds(slides, SplitSpec())
    assert check_leakage(folds, SplitSpec()) == []
    folds, _ = make_folds([*slides, make_slide("C1", "C", path=second)], SplitSpec())
    with pytest.raises(InputError, match="A1 and training slide C1 have the same image"):
        check_leakage(folds, SplitSpec())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.csv", "slide,fold\nA1,0\nB1,1\n"),
        ("f.tsv", "fold\tslide\n0\tA1\n1\tB1\n"),
        ("f.json", json.dumps({"A1": "0", "B1": 1})),
        ("f.json", json.dumps({"0": ["A1"], "1": ["B1"]})),
        ("f.json", json.dumps([{"slide": "A1", "fold": 0}, {"slide": "B1", "fold": 1}])),
    ],
)
def test_folds_are_read_in_every_shape(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read_folds(path) == (("A1", "0"), ("B1", "1"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.csv", ""),
        ("f.csv", "sample,group\nA1,0\n"),
        ("f.csv", "slide,fold\nA1,\n"),
        ("f.csv", "slide,fold\nA1\n"),
        ("f.json", "{"),
        ("f.json", "3"),
        ("f.json", "[1, 2]"),
        ("f.json", '[{"slide": "A1"}]'),
        ("f.json", '{"A1": null}'),
        ("f.csv", "\udcff"),
    ],
)
def test_rubbish_folds_are_refused_in_one_line(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as error:
        read_folds(path)
    assert "\n" not in str(error.value)


def test_absent_folds_are_refused(tmp_path):
    with pytest.raises(InputError, match="Cannot read folds"):
        read_folds(tmp_path / "none.csv")
