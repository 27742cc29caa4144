"""The retrieval methods: what they run, and what is said of their recipes."""

import dataclasses

import numpy as np
import pytest
from worlds import SCALE, TINY

from mclstexp import Reference
from mclstexp.config import recipe
from mclstexp.errors import InputError, MclstexpWarning
from mclstexp.evaluate.folds import SplitSpec
from mclstexp.evaluate.methods import MethodOptions, without_counts
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.retrieval import OWN_FEATURES, RetrievalMethod, evaluation_methods
from mclstexp.evaluate.run import run_evaluation
from mclstexp.evaluate.tuning import parse_grid
from mclstexp.settings import with_settings
from mclstexp.train import train

GRID = parse_grid(["retrieval.k=1,30"])


def test_published_recipes_are_not_tuned_and_the_others_stand_beside_themselves(tmp_path):
    options = MethodOptions(recipes=("default", "paper"), grid=GRID, encoder_weights="random", cache=tmp_path)
    names = [method.name for method in evaluation_methods(options)]
    assert names[-5:] == ["linear probe", OWN_FEATURES, "default", "default, tuned", "paper"]
    alone = evaluation_methods(MethodOptions(recipes=("paper",), encoder_weights="random", cache=tmp_path))
    assert OWN_FEATURES not in [method.name for method in alone]


def test_a_probe_stands_on_the_features_that_the_recipe_itself_is_given(slides, resources):
    settings = tuple(f"{key}={value}" for key, value in (("patch.size_px", 32), ("encoder.views", 1)))
    options = MethodOptions(("default",), "test_resnet", "random", settings, cache=resources.cache, device="cpu")
    (probe,) = [method for method in evaluation_methods(options) if method.name == OWN_FEATURES]
    config = with_settings(recipe("default"), ["encoder.name=test_resnet", *settings])
    model = train(slides[:3], recipe=config, n_genes=12, encoder_weights="random", device="cpu", cache=resources.cache)
    np.testing.assert_array_equal(probe.features(slides[0]), model.features(slides[0]))
    weights = probe.weights()
    assert weights.shape == (probe.features(slides[0]).shape[1],)
    stages = [name for name in model.encoder.block_names(32) if not name.endswith(".last")]
    assert weights.sum() == pytest.approx(3 * len(stages))
    probe.fit(slides[:3], model.panel, seed=0)
    assert np.isfinite(probe.predict(without_counts(slides[3])).mean).all()


def test_the_published_recipe_says_in_what_it_is_not_as_published(slides, resources):
    config = dataclasses.replace(
        recipe("paper"), encoder=TINY.encoder, patch=TINY.patch, optim=dataclasses.replace(TINY.optim, epochs=1)
    )
    split = SplitSpec(by="slide", test=("P2_B",))
    method = RetrievalMethod(config, resources, SCALE)
    result = run_evaluation(slides, [method], EvaluationProtocol(split=split, n_genes=20))
    (line,) = [text for text in result.describe() if text.startswith("recipe of paper")]
    for part in ("not as published: ", 'encoder.name="test_resnet"', "optim.epochs=1", "its image encoder is frozen"):
        assert part in line
    assert result.to_json()["recipes"]["paper"]["optim"]["epochs"] == 1


@pytest.mark.filterwarnings("ignore::mclstexp.errors.MclstexpWarning")
def test_a_method_is_train_build_and_query_as_the_commands_run_them(slides, resources, tmp_path):
    panel = slides[0].spots.genes.subset(range(12))
    method = RetrievalMethod(TINY, resources, SCALE)
    method.fit(slides[:3], panel, seed=3)
    predicted = method.predict(without_counts(slides[3]))
    model = train(
        slides[:3], recipe=TINY, genes=panel, seed=3, encoder_weights="random", device="cpu", cache=resources.cache
    )
    prediction = Reference.build(tmp_path / "reference", slides[:3], model).query(slides[3], device="cpu")
    for name in ("mean", "lower", "upper"):
        np.testing.assert_array_equal(getattr(predicted, name), getattr(prediction, name))
    np.testing.assert_array_equal(predicted.familiarity, prediction.obs["familiarity"])
    assert predicted.level == TINY.interval_level == 0.9


def test_a_method_answers_on_the_protocols_scale_and_warns_nobody_of_its_own_models(slides, resources, recwarn):
    scale = dataclasses.replace(SCALE, target_sum=1e6, total="all")
    panel = slides[0].spots.genes.subset(range(12))
    method = RetrievalMethod(TINY, resources, scale)
    with pytest.raises(InputError, match="default was asked to predict before it was fitted"):
        method.predict(slides[3])
    method.fit(slides[:3], panel, seed=0)
    predicted = method.predict(without_counts(slides[3]))
    # intervals are those of the model's own scale
    assert (predicted.lower, predicted.level) == (None, None)
    assert predicted.mean.mean() > 7
    assert [warning for warning in recwarn if warning.category is MclstexpWarning] == []
