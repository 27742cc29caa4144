"""Folds, given and made."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import stub_slide

from mclstexp.errors import InputError
from mclstexp.evaluate.folds import SplitSpec, make_folds, read_folds
from mclstexp.evaluate.leakage import check_leakage


def shape(folds):
    return {f.name: ([s.slide_id for s in f.train], [s.slide_id for s in f.test]) for f in folds}


def test_one_patient_is_left_out_at_a_time(stubs):
    folds, notes = make_folds(stubs, SplitSpec())
    assert shape(folds) == {
        "A": (["B1", "B2", "C1", "C2", "D1"], ["A1", "A2"]),
        "B": (["A1", "A2", "C1", "C2", "D1"], ["B1"]),
        "C": (["A1", "A2", "B1", "B2", "D1"], ["C1"]),
    }
    assert [s.slide_id for s in folds[0].train_with_image] == ["B1", "C1"]
    assert "3 of 7 slides have no image" in notes[0]
    assert "B2, C2, D1" in notes[0]
    assert check_leakage(folds, SplitSpec()) == []


def test_by_slide_is_allowed_and_shouted(stubs):
    folds, _ = make_folds(stubs, SplitSpec(by="slide"))
    assert shape(folds)["B1"] == (["A1", "A2", "B2", "C1", "C2", "D1"], ["B1"])
    (warning,) = check_leakage(folds, SplitSpec(by="slide"))
    assert warning.startswith("LEAKAGE BY DESIGN")
    assert "B1 (1 others of patient B)" in warning
    assert "--by patient" in warning


def test_by_cohort(stubs):
    folds, _ = make_folds(stubs, SplitSpec(by="cohort"))
    assert shape(folds) == {
        "x": (["C1", "C2", "D1"], ["A1", "A2", "B1"]),
        "y": (["A1", "A2", "B1", "B2"], ["C1"]),
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ABCD"), st.booleans()), min_size=2, max_size=9))
def test_every_slide_with_an_image_is_held_out_once_and_no_patient_crosses(rows):
    slides = [stub_slide(f"{p}{i}", p, image=image) for i, (p, image) in enumerate(rows)]
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
        make_folds([stub_slide("P1"), stub_slide("P2"), stub_slide("Q1", "Q", image=False)], SplitSpec())


def test_an_unknown_patient_is_named_with_the_way_to_give_it():
    slides = [stub_slide("A1", "A"), stub_slide("X1", ""), stub_slide("B1", "B")]
    with pytest.raises(InputError, match=r"patient of 1 of 3 slides is unknown \(X1\).*slides\.csv"):
        make_folds(slides, SplitSpec())
    folds, _ = make_folds(slides, SplitSpec(by="slide"))
    assert "The patient of 1 slides is unknown" in check_leakage(folds, SplitSpec(by="slide"))[0]


def test_slides_without_counts_take_no_part_and_are_named(stubs):
    folds, notes = make_folds([*stubs, stub_slide("Q1", "Q", counts=False)], SplitSpec())
    assert "Q" not in shape(folds)
    assert "1 slides without counts take no part: Q1." in notes
    with pytest.raises(InputError, match="None of 1 slides"):
        make_folds([stub_slide("Q1", "Q", counts=False)], SplitSpec())


def test_given_folds(stubs):
    pairs = (("A1", "one"), ("A2", "one"), ("B1", "two"), ("B2", "two"))
    folds, notes = make_folds(stubs, SplitSpec(folds=pairs))
    assert shape(folds) == {"one": (["B1", "B2"], ["A1", "A2"]), "two": (["A1", "A2"], ["B1"])}
    assert "3 slides are in no given fold and take no part: C1, C2, D1." in notes


def test_explicit_train_and_test(stubs):
    folds, _ = make_folds(stubs, SplitSpec(train=("A1", "C2"), test=("B1",)))
    assert shape(folds) == {"B1": (["A1", "C2"], ["B1"])}
    folds, _ = make_folds(stubs, SplitSpec(test=("B1",)))
    assert shape(folds) == {"B1": (["A1", "A2", "B2", "C1", "C2", "D1"], ["B1"])}
    folds, _ = make_folds(stubs, SplitSpec(train=("A1", "A2")))
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
def test_splits_that_cannot_be_made_say_why(stubs, spec, says):
    with pytest.raises(InputError, match=says) as error:
        make_folds(stubs, SplitSpec(**spec))
    assert "\n" not in str(error.value)


def test_a_split_is_of_one_kind():
    with pytest.raises(InputError, match="exclude each other"):
        SplitSpec(folds=(("A1", "1"),), test=("A1",))
    with pytest.raises(InputError, match="'spot'"):
        SplitSpec(by="spot")


def test_repeated_slide_ids_are_refused():
    with pytest.raises(InputError, match="'A1'"):
        make_folds([stub_slide("A1", "A"), stub_slide("A1", "B")], SplitSpec())


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
    with pytest.raises(InputError, match="do not exist"):
        read_folds(tmp_path / "none.csv")
