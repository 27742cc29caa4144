"""The linear probe as a part of the shared space."""

import dataclasses
import warnings

import numpy as np
import pytest
from worlds import STAINED_LAYOUT, stained_arrays

from mclstexp.config import SharedSpaceConfig
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.reduce import Reduction
from mclstexp.model.space.training_data import SlideArrays
from mclstexp.predict.linear import feature_variance, fitted_probe, measured_expression, with_linear


def cohort(n: int) -> list[SlideArrays]:
    return [stained_arrays(f"S{i}", f"P{i}", seed=i, shift=0.5 * i) for i in range(n)]


@pytest.mark.parametrize("n_slides", [1, 2, 5])
def test_the_space_says_what_the_probe_says(n_slides: int) -> None:
    slides = cohort(n_slides)
    reduction = Reduction.fit(slides, STAINED_LAYOUT)
    small = [reduction(slide) for slide in slides]
    bare = fit_shared_space(small, reduction.layout, SharedSpaceConfig(components=2))
    space = with_linear(bare, small, seed=0)
    query = reduction(stained_arrays("new", seed=9, shift=1.0))
    expected = fitted_probe(small, seed=0).predict(query.features)
    np.testing.assert_allclose(space.linear(query.features - space.feature_mean), expected, rtol=1e-3, atol=1e-3)
    columns = np.arange(expected.shape[1])
    whole = space.blend(np.zeros_like(expected), columns, query.features, share=1.0)
    np.testing.assert_allclose(whole, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(space.image_own, bare.image_own)


def test_it_learns_what_is_linear() -> None:
    slides = [stained_arrays(f"S{i}", f"P{i}", seed=i, noise=0.05) for i in range(4)]
    query = stained_arrays("new", seed=9, noise=0.05)
    told = fitted_probe(slides, seed=0).predict(query.features)
    assert np.mean((told - query.expression) ** 2) < 0.02 * query.expression.var(axis=0).mean()


def test_a_gene_that_nobody_measured_has_no_map_and_one_that_some_did_has() -> None:
    slides = cohort(4)
    for i, slide in enumerate(slides):
        slide.measured[2], slide.measured[4] = False, i > 1
        slide.expression[:, ~slide.measured] = 0
    space = fit_shared_space(slides, STAINED_LAYOUT, SharedSpaceConfig(components=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        space = with_linear(space, slides, seed=0)
    query = stained_arrays("new", seed=9, shift=1.0)
    told = space.linear(query.features - space.feature_mean)
    assert np.isnan(told[:, 2]).all()
    assert np.isfinite(np.delete(told, 2, axis=1)).all()
    whole = fitted_probe(cohort(4), seed=0).predict(query.features)
    part, all_four = (np.corrcoef(one[:, 4], query.expression[:, 4])[0, 1] for one in (told, whole))
    assert all_four > 0.9, "the image tells this gene"
    assert part > all_four - 0.05


def test_unmeasured_is_unknown_and_variance_is_within_slides() -> None:
    one, other = stained_arrays("A", n=50), stained_arrays("B", n=30, shift=1000.0)
    one.measured[4] = False
    values = measured_expression([one, other])
    assert np.isnan(values[0][:, 4]).all()
    np.testing.assert_array_equal(values[1], other.expression)
    pooled = (50 * one.features.var(axis=0) + 30 * other.features.astype(float).var(axis=0)) / 80
    np.testing.assert_allclose(feature_variance([one, other]), pooled, rtol=1e-2)
    blank = dataclasses.replace(one, features=np.ones_like(one.features))
    np.testing.assert_array_equal(feature_variance([blank]), 0)
