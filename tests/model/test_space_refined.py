"""Refining the shared space by contrast: it starts at the closed form, is a function of slides and seed, and pays."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from worlds import CURVED_LAYOUT, NOISY_LAYOUT, NOISY_PANEL, curved_arrays, noisy_arrays

from mclstexp.config import SharedSpaceConfig, configure
from mclstexp.errors import FormatError, InputError
from mclstexp.model.model import Model
from mclstexp.model.space.contrast import ContrastSettings, Refinement, contrastive_loss, refine
from mclstexp.model.space.fit import fit_shared_space
from mclstexp.model.space.reduce import Reduction
from mclstexp.model.space.refined import Head, HeadSizes, RefinedSpace
from mclstexp.model.space.shared import SharedSpace
from mclstexp.model.space.training_data import SlideArrays
from mclstexp.predict.memory import MemoryReference, embed_patches
from mclstexp.predict.predictor import Predictor, Query
from mclstexp.slide import Slide

CONFIG = configure("default", settings={"encoder.scales": [1.0], "shared.context_scales": [0], "shared.components": 3})
SMALL = ContrastSettings(directions=8, hidden=32, lr=5e-3, batch=64, validate_every=1)


def random_head(n_inputs: int, n_components: int, seed: int = 0, *, trained: bool = True) -> Head:
    """Return a network as training leaves it, or an untrained one."""
    torch.manual_seed(seed)
    head = Head(HeadSizes(n_inputs, 16, n_components, 0.1))
    if trained:
        torch.nn.init.normal_(head.out.weight, std=0.3)
    return head


def around(space: SharedSpace, *, trained: bool = True) -> RefinedSpace:
    """Return the space with a network around it that sees a few directions of the features."""
    rng = np.random.default_rng(1)
    own, context, slide = rng.normal(size=(3, len(space.feature_mean), 5)).astype(np.float32)
    head = random_head(10 + len(space.gain), len(space.gain), trained=trained)
    unit = np.maximum(space.amplitude, np.float32(1e-6))
    refined = RefinedSpace.around(space, own=own, context=context, slide=slide, unit=unit, head=head)
    report = {**space.report, "refined": {"epochs": 7, "validation": [0.5, 0.6]}}
    return dataclasses.replace(refined, report=report)


def agreement(space: SharedSpace, slide: SlideArrays) -> float:
    """Return how well patches find the expression of their spots: mean correlation of the two components."""
    image = space.image_components(slide.features, slide.xy_um)
    spot = space.spot_components(slide.expression, slide.measured)
    return float(np.mean([np.nan_to_num(np.corrcoef(image[:, c], spot[:, c])[0, 1]) for c in range(image.shape[1])]))


@pytest.fixture(scope="module")
def noisy() -> list[SlideArrays]:
    """Four slides of a patient each."""
    return noisy_arrays(4)


@pytest.fixture(scope="module")
def closed(noisy: list[SlideArrays]) -> SharedSpace:
    """The closed form of `noisy`."""
    return fit_shared_space(noisy, NOISY_LAYOUT, CONFIG.shared)


@pytest.fixture(scope="module")
def curved() -> tuple[SharedSpace, list[SlideArrays], SlideArrays]:
    """The closed form of curved slides, the slides, and another one."""
    slides = [curved_arrays(i) for i in range(4)]
    return fit_shared_space(slides, CURVED_LAYOUT, SharedSpaceConfig(components=2)), slides, curved_arrays(9)


@pytest.fixture(scope="module")
def refinement(curved: tuple[SharedSpace, list[SlideArrays], SlideArrays]) -> Refinement:
    """Ten epochs on curved slides, validated on the other one."""
    space, slides, held = curved
    return refine(space, slides, CURVED_LAYOUT, validate=lambda s: agreement(s, held), epochs=10, settings=SMALL)


class TestStart:
    def test_an_untrained_network_is_the_closed_form_bit_for_bit(
        self, noisy: list[SlideArrays], closed: SharedSpace
    ) -> None:
        untrained = around(closed, trained=False)
        for slide in noisy:
            np.testing.assert_array_equal(embed_patches(untrained, slide), embed_patches(closed, slide))
        predicted = []
        for space in (closed, untrained):
            source = MemoryReference.of(noisy[:3], space, CONFIG.key_mix, NOISY_PANEL, CONFIG.normalisation)
            patches = embed_patches(space, noisy[3])
            query = Query(patches, noisy[3].features, NOISY_PANEL, CONFIG.normalisation, CONFIG.retrieval)
            predicted.append(Predictor(space, CONFIG, NOISY_PANEL).predict(source, query).mean)
        np.testing.assert_array_equal(*predicted)

    def test_epoch_0_is_the_closed_form_s_own_figure_and_where_nothing_beats_it_there_is_no_space(
        self, noisy: list[SlideArrays], closed: SharedSpace
    ) -> None:
        asked: list[SharedSpace] = []

        def worse_every_time(space: SharedSpace) -> float:
            asked.append(space)
            return -float(len(asked))

        steps: list[tuple[str, int, int]] = []
        settings = dataclasses.replace(SMALL, patience=2)
        outcome = refine(
            closed,
            noisy,
            NOISY_LAYOUT,
            validate=worse_every_time,
            epochs=9,
            settings=settings,
            on_progress=lambda *step: steps.append(step),
        )
        assert asked[0] is closed
        assert outcome.space is None
        assert outcome.epochs == 0
        assert [entry["validation"] for entry in outcome.history] == [-1.0, -2.0, -3.0], "patience ends it"
        assert [step[1:] for step in steps] == [(1, 9), (2, 9)]

    def test_no_epochs_or_slides_are_refused(self, noisy: list[SlideArrays], closed: SharedSpace) -> None:
        with pytest.raises(InputError, match="not 0 and 4"):
            refine(closed, noisy, NOISY_LAYOUT, validate=None, epochs=0)
        with pytest.raises(InputError, match="not 3 and 0"):
            refine(closed, [], NOISY_LAYOUT, validate=None, epochs=3)


class TestTraining:
    def test_learns_a_curve_that_the_closed_form_cannot(
        self, curved: tuple[SharedSpace, list[SlideArrays], SlideArrays], refinement: Refinement
    ) -> None:
        space, _, held = curved
        assert agreement(space, held) < 0.66, "a product of two factors is no line"
        assert refinement.space is not None
        assert agreement(refinement.space, held) > 0.85
        assert refinement.epochs == max(refinement.history, key=lambda entry: entry["validation"])["epoch"]
        before, after = refinement.space.report["refined"]["validation"]
        assert f"{after:.3f} on held-out slides, {before:.3f} without it" in refinement.space.summary()[-1]

    def test_components_stay_components(
        self, curved: tuple[SharedSpace, list[SlideArrays], SlideArrays], refinement: Refinement
    ) -> None:
        """The one that counts most keeps its measure; one that the closed form cannot predict is left too small."""
        _, _, held = curved
        assert refinement.space is not None
        image = refinement.space.image_components(held.features, held.xy_um)
        spot = refinement.space.spot_components(held.expression, held.measured)
        slope = (image * spot).sum(axis=0) / (image**2).sum(axis=0)
        np.testing.assert_allclose(slope[refinement.space.gain.argmax()], 1, atol=0.1)

    def test_same_slides_and_seed_same_space_another_seed_another(
        self, noisy: list[SlideArrays], closed: SharedSpace
    ) -> None:
        def states(seed: int) -> dict[str, np.ndarray]:
            outcome = refine(closed, noisy, NOISY_LAYOUT, validate=None, epochs=2, seed=seed, settings=SMALL)
            assert outcome.space is not None
            assert outcome.epochs == 2
            return outcome.space.state()[0]

        torch.manual_seed(5)
        first = states(0)
        drawn = torch.rand(1)
        again, other = states(0), states(1)
        for name, array in first.items():
            np.testing.assert_array_equal(array, again[name])
        assert (first["refined.head.out.weight"] != other["refined.head.out.weight"]).any()
        torch.manual_seed(5)
        assert drawn == torch.rand(1), "the caller's random numbers are left alone"

    def test_the_closed_form_is_left_as_it_was(self, noisy: list[SlideArrays], closed: SharedSpace) -> None:
        before = {name: array.copy() for name, array in closed.state()[0].items()}
        refine(closed, noisy, NOISY_LAYOUT, validate=None, epochs=1, settings=SMALL)
        for name, array in before.items():
            np.testing.assert_array_equal(closed.state()[0][name], array)

    def test_the_loss_is_cross_entropy_both_ways_and_least_where_similarity_is_the_target(self) -> None:
        torch.manual_seed(0)
        logits, weight = torch.randn(7, 7), torch.ones(7)
        own = torch.arange(7)
        expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        torch.testing.assert_close(contrastive_loss(logits, torch.eye(7), weight), expected)
        alike = logits + logits.T
        least = contrastive_loss(alike, alike.softmax(dim=1), weight)
        assert least < contrastive_loss(alike + 0.3 * logits, alike.softmax(dim=1), weight)
        half = torch.tensor([1.0] * 3 + [0.0] * 4)
        rows = contrastive_loss(logits, torch.eye(7), half * 7 / 3)
        few = (F.cross_entropy(logits[:3], own[:3]) + F.cross_entropy(logits.T[:3], own[:3])) / 2
        torch.testing.assert_close(rows, few)


class TestSpace:
    def test_an_embedding_depends_on_its_own_slide_alone(self, noisy: list[SlideArrays], closed: SharedSpace) -> None:
        refined = around(closed)
        rule = CONFIG.normalisation
        alone = MemoryReference.of(noisy[:1], refined, 0.5, NOISY_PANEL, rule)
        among = MemoryReference.of(noisy, refined, 0.5, NOISY_PANEL, rule)
        np.testing.assert_array_equal(among.embedding[: alone.n_spots], alone.embedding)
        order = np.random.default_rng(0).permutation(len(noisy[0].features))
        shuffled = refined.image_components(noisy[0].features[order], noisy[0].xy_um[order])
        in_order = refined.image_components(noisy[0].features, noisy[0].xy_um)
        np.testing.assert_allclose(shuffled, in_order[order], rtol=1e-3, atol=1e-4)
        assert np.abs(in_order - closed.image_components(noisy[0].features, noisy[0].xy_um)).max() > 0.1

    def test_is_lifted_from_reduced_features_to_the_encoder_s_own(self, noisy: list[SlideArrays]) -> None:
        reduction = Reduction.fit(noisy, NOISY_LAYOUT)
        small = [reduction(slide) for slide in noisy]
        refined = around(fit_shared_space(small, reduction.layout, CONFIG.shared))
        lifted = reduction.lift(refined)
        assert isinstance(lifted, RefinedSpace)
        for slide, reduced in zip(noisy, small, strict=True):
            expected = refined.image_components(reduced.features, reduced.xy_um)
            found = lifted.image_components(slide.features, slide.xy_um)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)

    def test_cannot_be_cut(self, closed: SharedSpace) -> None:
        refined = around(closed)
        assert refined.truncated(3) is refined
        with pytest.raises(InputError, match="3 components cannot be cut to 2"):
            refined.truncated(2)

    def test_an_unfamiliar_slide_is_kept_within_what_was_seen(
        self, noisy: list[SlideArrays], closed: SharedSpace
    ) -> None:
        strange = around(closed).image_components(noisy[0].features * np.float32(1e4), noisy[0].xy_um)
        assert (np.sqrt((strange**2).mean(axis=0)) <= 1.05 * closed.amplitude).all()

    def test_a_model_keeps_it(self, model: Model, cohort: list[Slide], tmp_path: Path) -> None:
        assert isinstance(model.space, SharedSpace)
        kept = Model(model.config, model.panel, model.encoder, around(model.space), calibration=model.calibration)
        kept.save(tmp_path / "model")
        again = Model.load(tmp_path / "model", device="cpu", cache=False)
        assert again.digest == kept.digest != model.digest
        np.testing.assert_array_equal(again.keys(cohort[0]).embedding, kept.keys(cohort[0]).embedding)
        assert again.summary() == kept.summary()
        assert "0.600 on held-out slides, 0.500 without it" in " ".join(again.summary())

    @pytest.mark.parametrize("name", ["refined.project_slide", "refined.head.out.bias"])
    def test_a_gap_is_named(self, closed: SharedSpace, name: str) -> None:
        arrays, facts = around(closed).state()
        with pytest.raises(FormatError, match=rf"incomplete.*{name.split('.')[-1]}"):
            RefinedSpace.from_state({key: array for key, array in arrays.items() if key != name}, facts)
