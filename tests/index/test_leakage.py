"""What is said of a query that the reference or its model has met: by content for certain, by name perhaps."""

import dataclasses
import shlex

import pytest
from simulation import Simulation
from worlds import TINY, tiny_slides

from mclstexp.errors import MclstexpWarning
from mclstexp.index.leakage import leakage_warnings
from mclstexp.index.store.store import ReferenceStore
from mclstexp.model.model import Model
from mclstexp.storage import sha256_file
from mclstexp.train import train

SIM = Simulation()


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return tiny_slides(tmp_path_factory.mktemp("seen"), n=3, n_spots=36, n_genes=20, per_patient=2)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """A reference that holds none of the slides."""
    folder = tmp_path_factory.mktemp("strangers") / "ref"
    return ReferenceStore.create(folder, SIM.identity(), [SIM.record(i, 9) for i in range(2)], command="mst x")


def met(slide, *, patient="", image=True):
    digest = {"image_sha256": sha256_file(slide.image.path)} if image else {}
    return {"slide": slide.slide_id, "patient": patient, **digest}


def renamed(slide, name, patient=""):
    return dataclasses.replace(slide, slide_id=name, patient=patient)


def warned(slide, store, *trained_on):
    return leakage_warnings(slide, store, trained_on=trained_on, allowed=None)


def test_a_slide_that_was_trained_on_is_known_by_its_image_whatever_its_name(slides, strangers):
    (text,) = warned(renamed(slides[0], "query"), strangers, met(slides[0]), met(slides[2]))
    assert "trained on slide P1_A: it has seen the answer, whatever" in text


def test_a_slide_known_by_its_name_alone_may_be_another(slides, strangers):
    query = renamed(slides[0], "P2_A")
    for image in (True, False):  # another image of this name, and a model that recorded none
        (text,) = warned(query, strangers, met(slides[2], image=image))
        assert "trained on a slide of this name (P2_A): it may have seen the answer, whatever" in text
    assert warned(query, strangers, met(slides[1])) == []


def test_an_image_gives_the_patient_away_and_each_slide_is_judged_by_itself(slides, strangers):
    query = renamed(slides[0], "P2_A")
    models = met(slides[0], patient="P1"), met(slides[2], patient="P2"), met(slides[1], patient="P1")
    (text,) = warned(query, strangers, *models)
    assert "slide P1_A and a slide of this name (P2_A) and slides of the same patient (P1_B): it has seen the" in text
    (text,) = warned(renamed(slides[0], "P2_A", "P1"), strangers, *models[1:])
    assert "a slide of this name (P2_A) and slides of the same patient (P1_B): it knows this tumour and it may" in text
    (text,) = warned(renamed(slides[0], "query", "P1"), strangers, models[2])
    assert "trained on slides of the same patient (P1_B): it knows this tumour, whatever" in text


def test_without_an_image_there_is_the_name(slides, strangers):
    blind = dataclasses.replace(slides[0], image=None, patient="")
    (text,) = warned(blind, strangers, met(slides[0]), {"slide": "P9", "patient": "", "image_sha256": None})
    assert "a slide of this name (P1_A)" in text


def test_suggested_commands_can_be_pasted(slides, tmp_path):
    own = {"sources": {"image.tif": sha256_file(slides[0].image.path)}, "patient": "Mrs O'Hara", "slide_id": "cut 1"}
    records = [dataclasses.replace(SIM.record(0, 9), **own)]
    records.append(dataclasses.replace(SIM.record(1, 9), patient="Mrs O'Hara"))
    store = ReferenceStore.create(tmp_path / "ref", SIM.identity(), records, command="mst x")
    same, patient = warned(renamed(slides[0], "query"), store)
    assert shlex.split(same.partition("leave it out with ")[2].partition(", or")[0]) == ["--exclude-slide", "cut 1"]
    words = shlex.split(patient.partition("leave them out with ")[2].removesuffix("."))
    assert words == ["--exclude-patient", "Mrs O'Hara"]


def test_a_model_fresh_from_training_knows_what_it_has_seen(slides, strangers, tmp_path):
    config = dataclasses.replace(TINY, calibrate=False)
    blind = dataclasses.replace(slides[1], image=None)
    with pytest.warns(MclstexpWarning, match=r"1 of 3 slides have no image and are left out of training: P1_B"):
        model = train(
            [slides[0], blind, slides[2]],
            recipe=config,
            encoder_weights="random",
            device="cpu",
            cache=tmp_path / "cache",
        )
    seen = model.slides
    assert [(one["slide"], one["image_sha256"]) for one in seen] == [
        (slide.slide_id, sha256_file(slide.image.path)) for slide in (slides[0], slides[2])
    ]
    model.save(tmp_path / "model")
    assert Model.load(tmp_path / "model", device="cpu", cache=False).slides == seen
    (text,) = warned(renamed(slides[2], "query"), strangers, *seen)
    assert "trained on slide P2_A: it has seen the answer" in text
