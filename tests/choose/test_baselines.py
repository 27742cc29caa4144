"""Baselines and the recipe answer for the very same spots."""

import dataclasses

import numpy as np
import pytest
from choosing import CHOOSING, LAYOUT, programmed_arrays, rehearsal_of, without_genes

from mclstexp.choose import baselines
from mclstexp.choose.baselines import OWN_PROBE, HeldOutBaselines, held_out_baselines, last_layer
from mclstexp.choose.figures import Figures, figures
from mclstexp.choose.rehearsal import Rehearsal
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays

QUERIES = 110
"""Fewer than the spots that are held out, so that some of each slide are drawn."""

OWN = ["training mean", "image retrieval, own features", OWN_PROBE]


@pytest.fixture(scope="module")
def slides() -> list[SlideArrays]:
    """Slides of four patients, of many sizes, not in the order of their patients; one lacks a gene, all another."""
    sizes = (30, 12, 25, 41, 22)
    made = [
        dataclasses.replace(programmed_arrays((patient,), n_spots=n, seed=n)[0], slide_id=f"S{n}")
        for patient, n in zip("CABCD", sizes, strict=True)
    ]
    return [without_genes(slide, 5, *([7] if number == 2 else [])) for number, slide in enumerate(made)]


@pytest.fixture(scope="module")
def rehearsal(slides: list[SlideArrays]) -> Rehearsal:
    return rehearsal_of(slides)


def baselines_of(
    slides: list[SlideArrays], rehearsal: Rehearsal, layout: FeatureLayout = LAYOUT, queries: int = QUERIES
) -> HeldOutBaselines:
    return held_out_baselines(slides, slides, layout, rehearsal, queries=queries, seed=0)


def asked_truth(rehearsal: Rehearsal, queries: int = QUERIES) -> list[np.ndarray]:
    return [values[some] for values, some in zip(rehearsal.truth, rehearsal.rows(queries), strict=True)]


@pytest.mark.parametrize("queries", [QUERIES, 10_000])
def test_are_scored_on_the_truth_of_the_rehearsal(
    slides: list[SlideArrays], rehearsal: Rehearsal, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[np.ndarray], list[float]]] = []

    def watched(truth: list[np.ndarray], said: list[np.ndarray], plain: list[float]) -> Figures:
        seen.append((truth, plain))
        assert [s.shape for s in said] == [t.shape for t in truth]
        return figures(truth, said, plain)

    monkeypatch.setattr(baselines, "figures", watched)
    found = baselines_of(slides, rehearsal, queries=queries)
    wanted = asked_truth(rehearsal, queries)
    assert list(found.figures) == OWN
    assert len(seen) == len(OWN)
    for truth, plain in seen:
        assert plain == rehearsal.plain(queries)
        assert len(truth) == len(wanted) == 5
        for one, other in zip(truth, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    drawn = sum(map(len, wanted))
    assert drawn == 130 if queries > 130 else drawn < 130


def test_the_training_mean_is_the_mean_of_what_the_division_trains_on(
    slides: list[SlideArrays], rehearsal: Rehearsal
) -> None:
    found, place = baselines_of(slides, rehearsal), 0
    for split in rehearsal.divided:
        for gene in (0, 7):
            known = np.concatenate([s.expression[:, gene] for s in split.rest if s.measured[gene]])
            for held in range(len(split.held)):
                said = found.predicted["training mean"][place + held]
                np.testing.assert_allclose(said[:, gene], known.mean(dtype=np.float64), rtol=1e-5)
                assert np.isnan(said[:, 5]).all(), "nobody measured it"
        place += len(split.held)
    figure = found.figures["training mean"]
    assert figure.pcc == 0
    assert figure.mse == pytest.approx(np.mean(rehearsal.plain(QUERIES)), rel=1e-5)


def test_the_whole_probe_and_the_recipe_agree_on_which_spot_is_which(
    slides: list[SlideArrays], rehearsal: Rehearsal
) -> None:
    probe = baselines_of(slides, rehearsal).figures[OWN_PROBE]
    plain = rehearsal.plain(QUERIES)
    recipe = rehearsal.figures(CHOOSING, queries=QUERIES, plain=plain)
    assert min(probe.pcc, recipe.pcc) > 0.6, "spots in another order would leave nothing"
    assert len(probe.by_slide) == len(recipe.by_slide) == len(plain) == 5


def test_the_last_layer_at_the_middle_field_of_view_has_baselines_of_its_own(
    slides: list[SlideArrays], rehearsal: Rehearsal
) -> None:
    layout = FeatureLayout((14, 14), names=("net.1", "net.last"))
    np.testing.assert_array_equal(last_layer(layout), np.arange(28) >= 14)
    found = baselines_of(slides, rehearsal, layout)
    assert list(found.figures) == list(found.predicted) == [*OWN, "image retrieval", "linear probe"]
    np.testing.assert_array_equal(
        found.predicted[OWN_PROBE][0], baselines_of(slides, rehearsal).predicted[OWN_PROBE][0]
    )


def test_which_columns_are_the_last_layers() -> None:
    three = FeatureLayout((2, 1), 3, names=("net.1", "net.last"))
    np.testing.assert_array_equal(np.flatnonzero(last_layer(three)), [5])
    assert not last_layer(FeatureLayout((2, 1), 3)).any()
    assert not last_layer(FeatureLayout((3,), names=("net.last",))).any(), "the whole is no layer beside stages"
