"""The one door: build, open, change, look after. Each change is one commit, and every version stays."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from references import Library, build_library, quietly, without_counts

import mclstexp
from mclstexp.errors import ExistsAlreadyError, FormatError, InputError, MclstexpWarning, MismatchError
from mclstexp.index.reference import Reference
from mclstexp.model.model import Model
from mclstexp.train import train


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def reference(library: Library, tmp_path: Path) -> Reference:
    return library.copy(tmp_path / "reference")


def names(reference: Reference) -> list[str]:
    return list(reference.slides.index)


def test_a_reference_says_what_it_is(library: Library, reference: Reference) -> None:
    assert isinstance(reference, mclstexp.Reference)
    assert repr(reference) == f"Reference('{reference.path}', 144 spots, 4 slides, 2 patients, version 1)"
    assert len(reference) == 144
    assert reference.version == 1
    assert reference.panel == library.model.panel
    assert set(library.slides[0].spots.genes.symbols) == set(reference.genes.symbols)
    assert reference.model.digest == library.model.digest
    slides = reference.slides
    assert slides.index.name == "slide"
    assert slides.index.tolist() == ["P1_A", "P1_B", "P2_A", "P2_B"]
    assert slides.patient.tolist() == ["P1", "P1", "P2", "P2"]
    assert slides.n_spots.tolist() == [36] * 4
    assert slides.n_genes.tolist() == [40] * 4
    assert slides.has_image.all()
    assert (slides.mpp == 1.0).all()
    assert (slides.added_version == 1).all()


def test_what_it_tells_as_plain_values(library: Library, reference: Reference) -> None:
    info = reference.info()
    assert (info["n_spots"], info["n_slides"], info["n_patients"], info["n_cohorts"]) == (144, 4, 2, 1)
    assert (info["model"], info["embed_dim"]) == (library.model.digest, library.model.space.embed_dim)
    assert info["panel"]["n_genes"] == 30
    assert info["settings"]["recipe"] == "default"
    ((cohort),) = reference.cohorts()
    assert (cohort["cohort"], cohort["spots"], cohort["genes"]) == ("simulated", 144, 40)
    assert [patient["patient"] for patient in cohort["patients"]] == ["P1", "P2"]
    (only,) = reference.history()
    assert (only["version"], only["spots"]) == (1, 144)
    assert (only["message"], only["command"]) == ("the four", "mst build-index refs/")


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_text_or_paths(
    library: Library, tmp_path: Path, kind: Callable[[Path], os.PathLike[str] | str]
) -> None:
    folder = kind(tmp_path / "reference")
    built = Reference.build(folder, library.slides[:1], library.model)
    assert built.path == Reference.open(folder).path == tmp_path / "reference"
    assert Reference.verify(folder).ok


def test_what_cannot_be_built_is_refused_and_nothing_is_left(library: Library, tmp_path: Path) -> None:
    folder = tmp_path / "reference"
    with pytest.raises(InputError, match="no slide to build a reference from"):
        Reference.build(folder, [], library.model)
    with pytest.raises(InputError, match="Slide query has no counts: it cannot be a reference"):
        Reference.build(folder, [library.slides[0], without_counts(library.slides[1])], library.model)
    assert list(tmp_path.iterdir()) == []
    Reference.build(folder, library.slides[:1], library.model)
    with pytest.raises(ExistsAlreadyError, match="--force"):
        Reference.build(folder, library.slides[:2], library.model)
    again = Reference.build(folder, library.slides[:2], library.model, force=True)
    assert (len(again), again.version) == (72, 2)
    again.restore(1)
    assert len(again) == 36


def test_slides_without_an_image_are_said(library: Library, tmp_path: Path) -> None:
    blind = dataclasses.replace(library.slides[1], image=None)
    with pytest.warns(MclstexpWarning, match=r"1 of 2 slides have no image \(P1_B\): their keys are their spot"):
        built = Reference.build(tmp_path / "reference", [library.slides[0], blind], library.model)
    assert built.slides.has_image.tolist() == [True, False]


def test_progress_is_told_by_step(library: Library, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    built = Reference.build(
        tmp_path / "r", library.slides[:2], library.model, on_progress=lambda *now: told.append(now)
    )
    quietly(built, without_counts(library.slides[4]), on_progress=lambda *now: told.append(now))
    steps = list(dict.fromkeys(step for step, _, _ in told))
    assert steps == ["encoding 2 slides", "encoding query", "scoring the reference's own patches"]
    assert all(0 < done <= total for _, done, total in told)


def test_what_is_opened(library: Library, reference: Reference, tmp_path: Path) -> None:
    reference.tag("paper")
    reference.remove(slides=["P1_A"])
    for version in (1, "1", "paper"):
        old = Reference.open(reference.path, version=version)
        assert (old.version, len(old)) == (1, 144)
        with pytest.raises(InputError, match=r"Version 1 of .* was opened to be read"):
            old.remove(slides=["P1_A"])
        with pytest.raises(InputError, match="was opened to be read"):
            old.add([library.slides[4]])
    assert len(Reference.open(reference.path)) == 108
    for version, text in ((9, "no version 9"), ("nope", "no tag 'nope'")):
        with pytest.raises(InputError, match=text):
            Reference.open(reference.path, version=version)
    with pytest.raises(InputError, match="is not a reference"):
        Reference.open(tmp_path / "nowhere")


def test_adding_encodes_what_is_new_and_nothing_else(
    library: Library, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    keys = Model.keys
    monkeypatch.setattr(
        Model,
        "keys",
        lambda model, slide, **options: (encoded.append(slide.slide_id), keys(model, slide, **options))[1],
    )
    report = reference.add([library.slides[4]], message="a third patient", command="mst add more/")
    assert (report.added, report.replaced, report.skipped) == (["P3_A"], [], [])
    assert encoded == ["P3_A"]
    assert (reference.version, report.version, len(reference)) == (2, 2, 180)
    assert (reference.history()[-1]["message"], reference.history()[-1]["command"]) == (
        "a third patient",
        "mst add more/",
    )
    assert reference.add([library.slides[4]]).skipped == ["P3_A"]
    assert reference.version == 2


def test_a_name_that_is_taken_is_refused_or_replaced(library: Library, reference: Reference) -> None:
    other = dataclasses.replace(library.slides[4], slide_id="P1_A", patient="P1")
    with pytest.raises(ExistsAlreadyError, match=r"P1_A is in the reference with other content.*--replace"):
        reference.add([other])
    assert reference.version == 1
    assert reference.add([other], replace=True).replaced == ["P1_A"]
    assert (reference.version, len(reference)) == (2, 144)


def test_the_same_slide_under_another_name_is_said(library: Library, reference: Reference) -> None:
    twin = dataclasses.replace(library.slides[0], slide_id="twin")
    with pytest.warns(MclstexpWarning, match="Slide twin has the content of P1_A: probably the same slide"):
        report = reference.add([twin])
    assert report.duplicates == {"twin": ["P1_A"]}


def test_a_grown_reference_predicts_what_one_built_at_once_does(library: Library, tmp_path: Path) -> None:
    query = without_counts(library.slides[4])
    whole = Reference.build(tmp_path / "whole", library.slides[:4], library.model)
    grown = Reference.build(tmp_path / "grown", library.slides[3:4], library.model)
    for slide in library.slides[:3]:
        grown.add([slide])
    one, other = quietly(whole, query), quietly(grown, query)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.obs["familiarity"], other.obs["familiarity"])
    assert one.evidence.drop_columns(["row_id"]).equals(other.evidence.drop_columns(["row_id"]))


def test_removing_and_restoring(library: Library, reference: Reference) -> None:
    before = quietly(reference, without_counts(library.slides[4]))
    assert reference.remove(patients=["P1"], message="wrong stain") == ["P1_A", "P1_B"]
    assert names(reference) == ["P2_A", "P2_B"]
    assert reference.remove(slides=["P2_A"]) == ["P2_A"]
    for nothing, text in (
        ({"patients": ["P9"]}, "no patient 'P9'"),
        ({}, "Nothing was named"),
        ({"cohorts": ["simulated"]}, "leaves no reference"),
    ):
        with pytest.raises(InputError, match=text):
            reference.remove(**nothing)
    reference.restore(1, message="it was right", command="mst restore 1")
    assert (reference.version, len(reference)) == (4, 144)
    assert [row["message"] for row in reference.history()][1::2] == ["wrong stain", "it was right"]
    np.testing.assert_array_equal(quietly(reference, without_counts(library.slides[4])).mean, before.mean)
    with pytest.raises(InputError, match="newest already"):
        reference.restore(4)
    assert Reference.verify(reference.path).ok


def test_tags_name_versions(reference: Reference) -> None:
    assert reference.tag("paper") == 1
    reference.remove(slides=["P1_A"])
    assert reference.tag("small") == 2
    assert reference.tag("first", 1) == reference.tag("also", "paper") == 1
    assert reference.tags == {"paper": 1, "small": 2, "first": 1, "also": 1}
    assert reference.history()[0]["tags"] == ["also", "first", "paper"]
    assert reference.info()["tags"] == {"small": 2}
    with pytest.raises(ExistsAlreadyError, match="Tag paper exists already, for version 1; --force moves it"):
        reference.tag("paper")
    assert reference.tag("paper", force=True) == 2
    for name, version, text in (("1bad", None, "cannot be used"), ("good", 7, "no version 7")):
        with pytest.raises(InputError, match=text):
            reference.tag(name, version)
    reference.restore("also")
    assert (reference.version, len(reference)) == (3, 144)


def test_optimising_keeps_the_answers(library: Library, reference: Reference) -> None:
    query = without_counts(library.slides[4])
    reference.add([library.slides[4]])
    reference.remove(slides=["P1_A"])
    before = quietly(reference, query)
    reference.optimize(message="tidy", command="mst optimize")
    assert (reference.version, reference.history()[-1]["message"]) == (4, "tidy")
    np.testing.assert_array_equal(quietly(reference, query).mean, before.mean)
    assert Reference.verify(reference.path).ok


def test_verify_finds_what_is_wrong_and_mends_what_it_can(reference: Reference) -> None:
    stray = reference.path / ".tmp-1-stray"
    stray.write_text("left by a killed writer")
    report = Reference.verify(reference.path)
    assert [finding.path for finding in report.findings] == [stray.name]
    assert Reference.verify(reference.path, repair=True).ok
    assert not stray.exists()
    assert Reference.verify(reference.path).findings == []


def test_another_model_is_refused(library: Library, reference: Reference) -> None:
    model = train(
        library.slides[:2], recipe=library.model.config, encoder_weights="random", n_genes=20, device="cpu", cache=False
    )
    with pytest.raises(MismatchError, match=r"gene panel .* \(30 genes\), but this model has .* \(20 genes\)"):
        reference.use_model(model)
    assert reference.model.digest == library.model.digest
    reference.use_model(library.model)
    assert reference.model is library.model


def test_a_lost_or_damaged_model_is_said_and_another_copy_serves(library: Library, reference: Reference) -> None:
    folder = reference.store.model_folder
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FormatError, match=r"damaged|train it again"):
        quietly(reference, without_counts(library.slides[4]))
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(FormatError, match="holds no copy of its model; give the model with --model FOLDER"):
        quietly(reference, without_counts(library.slides[4]))
    reference.use_model(library.model)
    assert len(quietly(reference, without_counts(library.slides[4]))) == 36


def test_a_reference_lies_in_a_bucket_as_well(
    library: Library, s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri = f"{s3}/door/reference"
    built = Reference.build(uri, library.slides[:3], library.model)
    assert repr(built) == f"Reference('{uri}', 108 spots, 3 slides, 2 patients, version 1)"
    assert built.add(library.slides[3:4]).added == ["P2_B"]
    query = without_counts(library.slides[4])
    opened = Reference.open(uri, device="cpu", cache=False)
    local = quietly(Reference.open(library.folder, device="cpu", cache=False), query)
    np.testing.assert_array_equal(quietly(opened, query).mean, local.mean)
    assert Reference.verify(uri).findings == []
