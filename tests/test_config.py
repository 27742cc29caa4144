"""Settings: every range has an end, and whoever oversteps it is told in one line which setting it is."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from mclstexp.config import RECIPES, EncoderSpec, ModelConfig, PatchSpec, configure, recipe
from mclstexp.errors import InputError
from mclstexp.settings import from_dict, identity_dict, to_dict, with_settings

NAN, INF = float("nan"), float("inf")

TOO_FAR: dict[str, tuple[Any, ...]] = {
    "n_genes": (0, -5, 10**7),
    "seed": (-1, 2**32, 10**20),
    "key_mix": (-0.1, 1.1, NAN),
    "correction": (-0.1, INF, NAN),
    "blend": (-0.1, 1.1, NAN),
    "contrast_epochs": (-1, 10**9),
    "choose": (["seed"], ["nothing"]),
    "shared.level_weights": ([0.5], [-0.1, 0.5], [0.8, 0.3], [NAN, 0]),
    "shared.scales": ([], [-1]),
    "interval_level": (0, 1, 1.5, -0.9, NAN),
    "retrieval.k": (0, -3, 10**9),
    "retrieval.temperature": (0, -0.2, INF, NAN),
    "retrieval.min_measured": (-0.1, 1.1, NAN),
    "encoder.views": (0, 3, -1, 16),
    "encoder.scales": ([], [0.0], [1.0, -1.0], [1e6], [NAN]),
    "patch.size_px": (0, -224, 7, 10**6),
    "patch.mpp": (0, -0.5, 1e6, INF, NAN),
    "patch.scale": (0, -1, 1e6, NAN),
    "normalisation.target_sum": (0, -1e4, INF, NAN),
    "network.embed_dim": (0, -1, 10**9),
    "network.blocks": (0, 10**9),
    "network.heads": (0, 10**30),
    "network.head_dim": (0, 10**9),
    "network.context_spots": (0, 10**9),
    "network.dropout": (-0.1, 1.0, NAN),
    "optim.lr": (0, -1e-4, 1e30, INF, NAN),
    "optim.weight_decay": (-1e-3, INF, NAN),
    "optim.epochs": (0, -1, 10**9),
    "optim.batch_size": (0, 1, -128, 10**9),
    "optim.temperature": (0, -1, INF, NAN),
    "optim.validation_share": (-0.1, 0.9, 1, NAN),
    "shared.components": (0, -6, 10**6),
    "shared.context_um": (-1, INF, NAN),
    "shared.context_scales": ([-1], [0, -2]),
    "shared.caution": (-1, INF, NAN),
    "shared.radius": (0, -2, INF, NAN),
    "shared.shrink_spots": (-1, INF, NAN),
    "shared.max_landmarks": (0, 7, 10**9),
    "shared.max_rank": (0, 7, 10**9),
}

AT_THE_END: dict[str, tuple[Any, ...]] = {
    "n_genes": (1, 10**6),
    "seed": (0, 2**32 - 1),
    "key_mix": (0, 1),
    "correction": (0, 2.5),
    "blend": (0, 1),
    "choose": ([], ["retrieval.k"]),
    "shared.level_weights": (None, [0, 0], [0.4, 0.6]),
    "shared.scales": (None, [0], [0, 2]),
    "retrieval.k": (1, 10**6),
    "retrieval.min_measured": (0, 1),
    "encoder.views": (1, 2, 4, 8),
    "encoder.scales": ([0.01, 1, 100], [0.5, 1, 2]),
    "patch.mpp": (None, 0.01, 100),
    "optim.lr": (1e-12, 10),
    "optim.epochs": (1, 10**6),
    "optim.validation_share": (0, 0.89),
    "shared.context_um": (0,),
    "shared.context_scales": (None, [], [0]),
}


def pairs(table: dict[str, tuple[Any, ...]]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}={value}") for name, values in table.items() for value in values]


def value_of(config: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        config = getattr(config, part)
    return config


def refused(name: str, **changes: Any) -> str:
    """Return the one line that refuses these changes; it names the setting."""
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as refusal:
        configure("default", **changes)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(("name", "value"), pairs(TOO_FAR))
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    message = refused(name, settings={name: value})
    assert message.startswith(f"Setting {name} is ")
    assert message.endswith("is needed.")


@pytest.mark.parametrize(("name", "value"), pairs(AT_THE_END))
def test_a_value_at_the_end_of_its_range_is_taken(name: str, value: Any) -> None:
    taken = value_of(configure("default", settings={name: value}), name)
    assert (list(taken) if isinstance(taken, tuple) else taken) == value


def test_every_number_of_the_settings_has_a_range() -> None:
    """A setting that is added needs a line in the table above."""

    def numbers(config: Any, prefix: str = "") -> list[str]:
        names = []
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                names += numbers(value, f"{prefix}{field.name}.")
            elif isinstance(value, int | float | tuple) and not isinstance(value, bool):
                names.append(f"{prefix}{field.name}")
        return names

    unset = {"shared.level_weights", "shared.scales"}  # None in the recipe, and so no number to be found
    assert set(numbers(recipe("default"))) | unset == set(TOO_FAR)


@pytest.mark.parametrize(
    ("name", "value"), [("n_genes", 0), ("n_genes", -5), ("seed", -1), ("seed", 10**20), ("encoder", 7)]
)
def test_shorthands_have_the_same_ranges(name: str, value: Any) -> None:
    refused({"encoder": "encoder.name"}.get(name, name), **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("retrieval.k", 5.0, "must be int"),
        ("retrieval.k", True, "must be int"),
        ("retrieval.k", "5", "must be int"),
        ("retrieval.k", None, "must be int"),
        ("retrieval.k", [5], "must be int"),
        ("retrieval.temperature", "warm", "must be float"),
        ("retrieval.weights", "cubic", "'softmax', 'inverse_square' is needed"),
        ("retrieval.depth_weighted", 1, "must be bool"),
        ("encoder.scales", 1.0, "must be a list"),
        ("encoder.scales", ["wide"], "must be float"),
        ("encoder.name", 7, "must be str"),
        ("encoder.pooling", "max", "is needed"),
        ("retrieval", 3, "must be a group of settings"),
        ("retrieval.k", np.int64(3), "a plain number, text, list or null"),
        ("retrieval.k", {3}, "a plain number, text, list or null"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(name: str, value: Any, needed: str) -> None:
    assert needed in refused(name, settings={name: value})


@pytest.mark.parametrize("name", ["retrieval.kk", "retrievals.k", "retrieval.k.x", "k", ""])
def test_an_unknown_setting_is_named_and_the_known_ones_listed(name: str) -> None:
    assert "known: " in refused(f"Unknown setting '{name}'", settings={name: 1})


def test_an_assignment_needs_an_equals_sign() -> None:
    assert refused("retrieval.k", settings=["retrieval.k"]) == "Setting 'retrieval.k' is not of the form key=value."


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(InputError, match="Unknown recipe 'best'; one of paper, paper-code, default"):
        configure("best")


def test_a_dataclass_made_by_hand_has_the_same_ranges() -> None:
    with pytest.raises(InputError, match=r"Setting patch\.size_px is 0"):
        PatchSpec(size_px=0)
    with pytest.raises(InputError, match=r"Setting interval_level is 1\.5"):
        dataclasses.replace(ModelConfig(), interval_level=1.5)


@pytest.mark.parametrize("form", ["mapping", "assignments"])
def test_changes_are_applied_and_the_rest_stays(form: str) -> None:
    changes = {
        "retrieval.k": 100,
        "encoder.scales": [0.5, 1, 3],
        "patch.mpp": None,
        "retrieval.weights": "inverse_square",
    }
    texts = ["retrieval.k=100", "encoder.scales=[0.5,1,3]", "patch.mpp=null", "retrieval.weights=inverse_square"]
    config = configure("default", settings=changes if form == "mapping" else texts)
    base = recipe("default")
    assert config.retrieval == dataclasses.replace(base.retrieval, k=100, weights="inverse_square")
    assert config.encoder == dataclasses.replace(base.encoder, scales=(0.5, 1.0, 3.0))
    assert config.patch == dataclasses.replace(base.patch, mpp=None)
    assert (config.shared, config.optim, config.network) == (base.shared, base.optim, base.network)


def test_settings_have_the_last_word_and_recipes_stay() -> None:
    before = to_dict(recipe("default"))
    config = configure("default", seed=3, n_genes=50, encoder="resnet18", settings={"n_genes": 60})
    assert (config.seed, config.n_genes, config.encoder.name) == (3, 60, "resnet18")
    assert to_dict(recipe("default")) == before
    assert configure(config) == config


def test_several_encoders_are_named_with_commas_or_as_a_list() -> None:
    config = configure("default", encoder=["resnet18", "vgg16"], settings=["encoder.input_px=[224,112]"])
    assert config.encoder.names == ("resnet18", "vgg16")
    assert config == configure("default", encoder="resnet18,vgg16", settings={"encoder.input_px": [224, 112]})
    assert [(one.name, one.input_px) for one in config.encoder.members] == [("resnet18", (224,)), ("vgg16", (112,))]
    assert config.encoder.members[0].views == config.encoder.views
    one_for_all = dataclasses.replace(config.encoder, input_px=(112,))
    assert [one.input_px for one in one_for_all.members] == [(112,), (112,)]
    assert EncoderSpec("a").members == (EncoderSpec("a"),)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"encoder.name": "resnet18,"}, "encoder.name is 'resnet18,'"),
        ({"encoder.name": ""}, "encoder.name is ''"),
        ({"encoder.name": "a,,b"}, "one comma between"),
        ({"encoder.name": "a,b", "encoder.input_px": [224, 112, 56]}, r"\[224, 112, 56\]; .* one number, or of 2"),
        ({"encoder.input_px": []}, r"encoder.input_px is \[\]"),
        ({"encoder.input_px": [4]}, "from 8 to 4096"),
        ({"encoder.input_px": 112}, "must be a list"),
        ({"encoder.input_px": [448]}, "encoder.input_px is 448, but a patch has patch.size_px 224"),
    ],
)
def test_encoders_that_cannot_be_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        configure("default", settings=settings)


def test_what_came_later_does_not_change_what_was_before() -> None:
    plain = EncoderSpec("a", pooling="covariance")
    assert set(to_dict(plain)) - set(identity_dict(plain)) == {"dense", "input_px", "last_layer"}
    assert identity_dict(ModelConfig(encoder=plain))["encoder"] == identity_dict(plain)
    changed = dataclasses.replace(plain, input_px=(112,))
    assert identity_dict(changed)["input_px"] == [112]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_plain_values_and_back(name: str) -> None:
    config = recipe(name)
    assert from_dict(ModelConfig, to_dict(config)) == config
    assert with_settings(config, []) == config
    assert config.recipe == name


def test_a_patch_in_um_needs_the_slide_s_pixel_size() -> None:
    assert PatchSpec(size_px=200, mpp=0.5).span_px(0.25) == 400
    assert PatchSpec(size_px=200, mpp=None, scale=2).span_px(None) == 400
    with pytest.raises(InputError, match="give it with --mpp"):
        PatchSpec(mpp=0.5).span_px(None)


def test_scales_that_are_not_there_are_no_context() -> None:
    with pytest.raises(InputError, match=r"context_scales is \[1, 2\], but encoder.scales has 1; set both"):
        with_settings(recipe("default"), ["encoder.scales=[1.0]"])
    config = with_settings(recipe("default"), ["encoder.scales=[1.0]", "shared.context_scales=[0]"])
    assert config.shared.context_scales == (0,)
