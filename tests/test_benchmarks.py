"""The accuracy benchmarks: they import, end well without the real data, and measure what they say."""

import argparse
import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mclstexp.config import ModelConfig, RetrievalConfig, changed, recipe
from mclstexp.data.genes.expression import expression_for
from mclstexp.evaluate.folds import SplitSpec
from mclstexp.evaluate.methods import without_counts
from mclstexp.panel import GenePanel
from mclstexp.settings import with_settings

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ("accuracy", "ablation", "choices", "familiarity", "cohort", "training", "query", "hd", "formats")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("name", [*SCRIPTS, "encoding", "report", "placement", "large_slide", "published"])
def test_each_imports(script, name):
    assert callable(script(name).main)


def test_without_the_real_data_each_says_so_and_ends_well(tmp_path):
    environment = {**os.environ, "MST_SHARED": str(tmp_path / "nothing")}
    running = {
        name: subprocess.Popen(
            [sys.executable, str(FOLDER / f"{name}.py"), "--out", str(tmp_path / f"{name}.json")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in SCRIPTS
    }
    for name, process in running.items():
        said, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, (name, complaint)
        assert said.startswith("skipped: the real data is not here"), (name, said)
        assert str(tmp_path / "nothing") in said
    assert not list(tmp_path.iterdir())


def test_every_ablation_is_a_valid_setting(script):
    ablation = script("ablation")
    config = recipe("default")
    names = [name for name, _ in ablation.parts(config)]
    assert len(set(names)) == len(names)
    assert set(ablation.PARTS) <= set(ablation.parts(config))
    for _, assignments in ablation.parts(config):
        assert isinstance(with_settings(config, list(assignments)), ModelConfig)


def test_what_an_ablation_sets_is_not_chosen(script):
    config = recipe("default")
    for _, assignments in script("ablation").parts(config):
        set_by_hand = {text.partition("=")[0] for text in assignments}
        assert not set_by_hand & set(changed(config, list(assignments)).choose)


def test_an_ablation_leaves_fields_of_view_out(script):
    ablation = script("ablation")
    settings = with_settings(ModelConfig(), ["encoder.scales=[0.5,1.0,2.0]"])
    scales = {
        name: changed(settings, list(assignments)).shared.scales for name, assignments in ablation.scale_parts(settings)
    }
    assert scales == {
        "no field of view x 0.5": (1, 2),
        "no field of view x 1": (0, 2),
        "no field of view x 2": (0, 1),
        "one field of view": (1,),
    }
    assert ablation.scale_parts(ModelConfig()) == []


def test_an_ablation_shows_the_inner_figures_where_there_are_some(script):
    ablation = script("ablation")
    folds = [
        {"learned": [{"recipe": {"pcc": 0.25, "score": 0.5}}, {"recipe": {"pcc": 0.5, "score": 0.25}}]},
        {"learned": [{"recipe": {"pcc": 0.75, "score": 0.75}}, {"seed": 0}]},
    ]
    assert ablation.inner(folds) == {"inner PCC": 0.5, "inner score": 0.5}
    assert ablation.inner([{"learned": []}, {}]) == {"inner PCC": None, "inner score": None}


def test_temperatures_are_relative_to_the_recipe(script):
    config = ModelConfig(retrieval=RetrievalConfig(temperature=0.3))
    values = [
        with_settings(config, list(assignments)).retrieval.temperature
        for _, assignments in script("ablation").temperature_parts(config)
    ]
    assert values == pytest.approx([0.15, 0.3, 0.6])


def test_a_table_line_averages_slides_and_seeds(script):
    accuracy = script("accuracy")
    keys = ("pcc_hvg", "mse", "mae", "bias", "coverage")
    rows = [
        {"slide": slide, "method": method, "seed": seed, "pcc": pcc, "pcc_heg": 2 * pcc, **dict.fromkeys(keys)}
        for method, slide, seed, pcc in [
            ("linear probe", "s", None, 0.1),
            ("linear probe", "t", None, 0.3),
            ("paper", "s", 0, 0.1),
            ("paper", "t", 0, 0.1),
            ("default", "s", 0, 0.2),
            ("default", "t", 0, 0.4),
            ("default", "s", 1, 0.3),
            ("default", "t", 1, 0.5),
        ]
    ]
    probe, paper, default = accuracy.summary(rows)
    assert (default["slides"], default["seeds"], probe["seeds"]) == (2, 2, 1)
    assert default["pcc"] == pytest.approx(0.35)
    assert default["sd_seeds"] == pytest.approx(np.std([0.3, 0.4], ddof=1))
    assert probe["sd_seeds"] is None
    assert default["all / paper"] == pytest.approx(3.5)
    assert default["HEG / linear probe"] == pytest.approx(1.75)
    assert paper["all / paper"] == 1
    assert default["mse"] is None


def test_a_levelled_method_notes_its_mean_and_changes_nothing(script, cohort):
    from mclstexp.evaluate.baselines import TrainingMean

    accuracy = script("accuracy")
    normalisation = ModelConfig().normalisation
    plain, levelled = TrainingMean(normalisation), accuracy.Levelled(TrainingMean(normalisation), "mean")
    panel = cohort[0].spots.genes
    for method in (plain, levelled):
        method.fit(cohort[:2], panel, seed=3)
    expected = plain.predict(cohort[2]).mean
    np.testing.assert_array_equal(levelled.predict(cohort[2]).mean, expected)
    ((key, (noted, level)),) = levelled.level.items()
    assert (key, noted) == (f"{cohort[2].slide_id} 3", panel)
    np.testing.assert_allclose(level, expected.mean(axis=0), rtol=1e-5)


def test_levels_are_of_the_genes_known_on_both_sides(script, cohort):
    slide = cohort[0]
    symbols = slide.spots.genes.symbols
    panel = GenePanel((*symbols[:5], "UNMEASURED"))
    counts = slide.spots.counts[:, :5].toarray()
    truth = np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4)
    predicted = np.array([1.0, 2.0, np.nan, 4.0, 5.0, 100.0])
    level, measured = script("accuracy").levels(slide, panel, predicted)
    assert level == 3
    assert measured == pytest.approx(truth[:, [0, 1, 3, 4]].mean(), rel=1e-5)


def test_bias_is_what_is_predicted_over_what_is_measured(script, cohort, monkeypatch):
    from mclstexp.evaluate.baselines import TrainingMean
    from mclstexp.evaluate.protocol import EvaluationProtocol

    accuracy = script("accuracy")
    scale = script("_her2st").SCALE
    genes = cohort[0].spots.genes.symbols[:12]
    split = SplitSpec(by="slide", test=(cohort[0].slide_id, cohort[1].slide_id))
    protocol = EvaluationProtocol("two", split, (0,), genes, normalisation=scale)
    monkeypatch.setattr(accuracy.her2st, "plan", lambda options, **sides: protocol)
    methods = [("training mean", TrainingMean(scale))]
    rows, result = accuracy.evaluated(argparse.Namespace(seeds=[0]), cohort, methods, "two")
    assert "protocol: two" in result.describe()
    means = {
        slide.slide_id: np.asarray(expression_for(slide.spots, GenePanel(genes), scale)[0]).mean(axis=0)
        for slide in cohort
    }
    assert [row["slide"] for row in rows] == [cohort[0].slide_id, cohort[1].slide_id]
    for row in rows:
        assert row["bias"] == pytest.approx(row["level"] - means[row["slide"]].mean(), abs=1e-5)


def test_an_ablations_changes_stay_under_their_measure(script, capsys):
    ablation = script("ablation")
    full = {
        "part": "the full recipe",
        "set": [],
        "pcc": 0.0,
        "pcc_heg": None,
        "mse": 0.5,
        "mae": 0.25,
        "inner PCC": 0.75,
    }
    other = {"part": "one", "set": ["a=1"], "pcc": 0.125, "pcc_heg": 0.5, "mse": None, "mae": 0.5}
    same = {"part": "two", "set": ["b=1"], "note": "already so"}
    ablation.show("slide", [full, other, same])
    *_, first, one, two = capsys.readouterr().out.splitlines()
    assert first.split()[-4:] == ["-"] * 4
    assert first.split()[-10:-4] == ["0.0000", "-", "0.5000", "0.2500", "0.7500", "-"]
    assert one.split() == ["one", "0.1250", "0.5000", "-", "0.5000", "-", "-", "+0.1250", "-", "-", "+0.2500", "a=1"]
    assert two.split() == ["two", *"----------", "already", "so"]


def test_quarters_are_even_and_spread_over_the_slide(script):
    x, y = np.meshgrid(np.arange(12.0), np.arange(12.0))
    xy = np.random.default_rng(0).permutation(np.stack([x.ravel(), y.ravel()], axis=1))
    quarter = script("cohort").quarters(xy)
    assert np.bincount(quarter).tolist() == [36, 36, 36, 36]
    for number in range(4):
        np.testing.assert_allclose(xy[quarter == number].mean(axis=0), [5.5, 5.5], atol=0.5)
        blocks = {(int(a) // 3, int(b) // 3) for a, b in xy[quarter == number]}
        assert len(blocks) == 4


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.8, 1.2), (20.0, 1.9, 2.1)])
def test_purity_tells_a_shift_between_slides_from_none(script, shift, low, high):
    cohort = script("cohort")
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1], 100)
    vectors = rng.normal(size=(200, 5))
    vectors[:, 0] += shift * np.where(kind, 1, -1)
    same = kind[:, None] == kind
    everyone = np.ones(200, dtype=bool)
    share, blind = cohort.purity(cohort.Space("any", vectors, vectors), same, ~np.eye(200, dtype=bool), everyone)
    assert blind == pytest.approx(99 / 199)
    assert low < share / blind < high


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.3, 0.7), (5.0, 0.85, 1.0)])
def test_readers_find_a_class_only_where_there_is_one(script, shift, low, high):
    cohort = script("cohort")
    rng = np.random.default_rng(1)
    label = np.tile([0, 1], 60)
    vectors = rng.normal(size=(120, 70)) + shift * label[:, None]
    for reader in cohort.readers().values():
        assert low <= cohort.readable(vectors, label, np.arange(120) // 30, reader) <= high


def test_the_margin_is_glass(script, tmp_path):
    familiarity = script("familiarity")
    pixels = np.full((1200, 1600, 3), 245, dtype=np.uint8)
    pixels[300:900, 400:1000] = (170, 60, 140)
    slide = familiarity.query_slide(tmp_path, "a slide", pixels, np.array([[700.0, 600.0]]), 1.0)
    xy = familiarity.margin(slide, 100.0).spots.xy_px
    assert len(xy) > 10
    inside = ((xy > (350, 250)) & (xy < (1050, 950))).all(axis=1)
    assert not inside.any()
    assert ((xy >= 50) & (xy <= (1550, 1150))).all()


def test_shuffling_keeps_the_colours_of_a_block(script, tmp_path):
    familiarity = script("familiarity")
    size = familiarity.BLOCK_PX
    pixels = np.random.default_rng(0).integers(0, 255, (size, 2 * size, 3), dtype=np.uint8)
    slide = familiarity.query_slide(tmp_path, "a slide", pixels, np.array([[30.0, 30.0]]), 1.0)
    mixed = familiarity.shuffled(slide, tmp_path).image.read_region(0, 0, 2 * size, size)
    assert not np.array_equal(mixed, pixels)
    for part in (slice(0, size), slice(size, 2 * size)):
        old, new = (np.unique(one[:, part].reshape(-1, 3), axis=0, return_counts=True) for one in (pixels, mixed))
        np.testing.assert_array_equal(new[0], old[0])
        np.testing.assert_array_equal(new[1], old[1])


def test_shares_of_training_add_up(script):
    stages = {name: {"seconds": seconds} for name, seconds in (("whole", 100.0), ("cached", 30.0), ("fit", 10.0))}
    shares = script("training").shares(stages)
    assert shares == {"features_s": 70.0, "calibration_s": 20.0, "fit_s": 10.0, "whole_s": 100.0}


def test_a_trained_model_is_asked_and_embedded(script, cohort, tmp_path, monkeypatch):
    familiarity, her2st = script("familiarity"), script("_her2st")
    genes = cohort[0].spots.genes.symbols[:12]
    monkeypatch.setattr(her2st, "genes", lambda options: list(genes))
    toy = ["encoder.pooling=stages", "encoder.views=1", "encoder.scales=[1.0]", "patch.size_px=32", "patch.mpp=1.0"]
    options = argparse.Namespace(
        encoder="test_resnet", weights="random", device="cpu", cache=tmp_path, set=[*toy, "shared.context_scales=[]"]
    )
    reference = familiarity.build(options, cohort[:3], tmp_path / "reference")
    assert reference.panel.symbols == genes
    row = familiarity.answer(cohort[3], reference, "cpu")
    assert row["spots"] == len(cohort[3])
    assert row["q25"] <= row["median"] <= row["q75"]
    assert 0.5 < row["coverage"] <= 1
    assert row["width"] > 0
    assert "coverage" not in familiarity.answer(without_counts(cohort[3]), reference, "cpu")
    spaces = list(script("cohort").embedded("toy", reference.model, cohort[:2]))
    assert [space.name for space in spaces] == ["toy: image", "toy: spot", "toy: keys, asked by image"]
    for space in spaces:
        np.testing.assert_allclose(np.linalg.norm(space.keys, axis=1), 1, rtol=1e-5)
        assert len(space.keys) == len(cohort[0]) + len(cohort[1])
    np.testing.assert_array_equal(spaces[2].queries, spaces[0].keys)
    assert not np.array_equal(spaces[2].keys, spaces[1].keys)


def test_the_shared_folder_has_weights_of_each_encoder_of_an_ensemble(script, tmp_path):
    her2st = script("_her2st")
    options = argparse.Namespace(encoder="tf_efficientnet_lite0, vgg16", shared=tmp_path, set=[])
    options.set = ["encoder.input_px=[224,112]"]
    given = her2st.shared_weights(options).split(",")
    assert [Path(part).name for part in given] == ["tf_efficientnet_lite0.safetensors", "vgg16_conv1-3.safetensors"]
    assert [member.input_px for member in her2st.model_config(options).encoder.members] == [(224,), (112,)]
    with pytest.raises(SystemExit, match="resnet50: the shared folder has weights of"):
        her2st.shared_weights(argparse.Namespace(encoder="vgg16,resnet50", shared=tmp_path))


def test_the_bulbs_panel_is_chosen_and_the_papers_is_given(script, monkeypatch):
    her2st = script("_her2st")
    monkeypatch.setattr(her2st, "genes", lambda options: ["A", "B"])
    options = argparse.Namespace()
    assert her2st.plan(options).genes == ("A", "B")
    chosen = her2st.plan(options, n_genes=500, seeds=(1, 2))
    assert (chosen.genes, chosen.n_genes, chosen.seeds, chosen.split.by) == ((), 500, (1, 2), "slide")


def test_false_names_go_by_rank(script, cohort):
    mob = script("_mob")
    names = mob.most_counted_first(cohort[:2], GenePanel((*cohort[0].spots.genes.symbols[:4], "ABSENT")))
    totals = {
        name: sum(float(slide.spots.counts[:, slide.spots.genes.symbols.index(name)].sum()) for slide in cohort[:2])
        for name in names[:4]
    }
    assert names[4] == "ABSENT"
    assert list(totals.values()) == sorted(totals.values(), reverse=True)
    renamed = mob.under_names_of(cohort[2], ["ONE", "TWO", "THREE"])
    assert renamed.spots.genes.symbols == ("ONE", "TWO", "THREE")
    most = np.sort(np.asarray(cohort[2].spots.counts.sum(axis=0)).ravel())[::-1]
    np.testing.assert_array_equal(np.asarray(renamed.spots.counts.sum(axis=0)).ravel(), most[:3])
    with pytest.raises(SystemExit, match="too few genes"):
        mob.under_names_of(cohort[2], [f"G{i}" for i in range(10_000)])


def test_a_foreign_cohort_is_compared_section_by_section(script):
    def row(reference, slide, pcc, mse, familiarity, held_out="C2", weight=0.0):
        return {
            "reference": reference,
            "held_out": held_out,
            "slide": slide,
            "pcc": pcc,
            "mse": mse,
            "familiarity": familiarity,
            "foreign_weight": weight,
        }

    rows = [
        row("C alone", "C2", 0.25, 1.0, 50.0),
        row("C alone", "MOB1", None, None, 2.0),
        row("C alone", "C3", 0.5, 1.0, 40.0, "C3"),
        row("C and MOB", "C2", 0.125, 1.5, 50.0, weight=0.25),
        row("C and MOB", "C3", 0.75, 1.5, 50.0, "C3", weight=0.75),
    ]
    assert script("_mob").compared(rows) == {
        "pcc": 0.0625,
        "worst_pcc": -0.125,
        "mse": 0.5,
        "foreign_weight": 0.5,
        "familiarity_c": 45.0,
        "familiarity_mob": 2.0,
    }


def test_a_bulb_joins_a_reference_under_false_names_only(script, cohort, tmp_path, monkeypatch):
    mob, her2st = script("_mob"), script("_her2st")
    genes = cohort[0].spots.genes.symbols[:12]
    monkeypatch.setattr(her2st, "genes", lambda options: list(genes))
    toy = ["encoder.pooling=stages", "encoder.views=1", "encoder.scales=[1.0]", "patch.size_px=32", "patch.mpp=1.0"]
    options = argparse.Namespace(
        encoder="test_resnet", weights="random", device="cpu", cache=tmp_path, set=[*toy, "shared.context_scales=[]"]
    )
    foreign = GenePanel(tuple(f"ENSMUSG{i:011d}" for i in range(len(cohort[3].spots.genes))))
    bulb = replace(cohort[3], slide_id="MOB1", spots=replace(cohort[3].spots, genes=foreign))
    monkeypatch.setattr(mob, "read", lambda options: [bulb])
    monkeypatch.setattr(her2st, "read", lambda options, names: list(cohort[:3]))
    result = mob.run_foreign(options)
    assert "the panel's 12 genes (such as ERBB2) are not among the 40 measured" in result["own_names"]
    assert len(result["rows"]) == 9
    assert all(row["foreign_weight"] == 0 for row in result["rows"] if row["reference"] == "C alone")
    assert result["summary"]["foreign_weight"] > 0


@pytest.fixture
def tiny(script, monkeypatch):
    """Return a tiny simulated side, on which few candidates are tried."""
    from mclstexp.choose import ladder

    choices = script("choices")
    for name, values in [("COMPONENTS", (1, 6)), ("NEIGHBOURS", ((25, 0.02),)), ("CORRECTIONS", (0.0, 1.0))]:
        monkeypatch.setattr(ladder, name, values)
    monkeypatch.setattr(choices, "GENES", 20)
    monkeypatch.setattr(choices, "WORLDS", ("few",))
    settings = ['choose=["shared.components","retrieval.k","retrieval.temperature","correction"]']
    ((_, read),) = choices.simulated_sides(argparse.Namespace(size=(2, 4, 1, 160), set=settings))
    return read()


def test_a_side_is_judged_choice_by_choice(script, tiny):
    from mclstexp.choose.figures import figures
    from mclstexp.model.space.reduce import Reduction

    choices, held_out = script("choices"), script("_held_out")
    row = choices.examined(tiny, "tiny")
    assert not {slide.patient for slide in tiny.train} & {slide.patient for slide in tiny.test}
    assert [one["setting"] for one in row["choices"]] == ["shared.components", "retrieval.k", "correction"]
    assert row["with_choosing"]["cpu_seconds"] > row["without_choosing"]["cpu_seconds"] > 0
    choices.show(row)
    choices.show_sides([row])
    for one in row["choices"]:
        assert len(one["values"]) == len(one["inner"]) == len(one["held"]) > 1
        # All other settings are those finally chosen, so the chosen candidate is the finished recipe.
        assert one["held_chosen"] == pytest.approx(row["chosen"]["score"], abs=1e-4)
        assert one["regret"]["chosen"] == max(one["held"]) - one["held"][one["chosen"]] >= 0
        assert one["as_good"]["chosen"] == (one["regret"]["chosen"] <= choices.NOISE)
    # The oracle is what training and a query do, by the same predictor.
    by_hand = choices.with_hand(tiny.config, ["choose=[]", "shared.components=6", "retrieval.k=25"])
    cohort = script("simulated.nature").Cohort(tiny.train, tiny.test, tiny.layout)
    answer = script("_contenders").default(cohort, by_hand)
    held = held_out.HeldOut(tiny, Reduction.fit(tiny.train, tiny.layout))
    expected = figures([slide.expression for slide in tiny.test], answer.means, held.plain)
    assert held.score(by_hand).score == pytest.approx(expected.score, abs=1e-3)
    assert held.score(by_hand).mse == pytest.approx(expected.mse, rel=1e-3)


def test_shares_and_regrets_of_choices(script, capsys):
    choices = script("choices")

    class Held:
        side = argparse.Namespace(config=recipe("default"))

        def score(self, config):
            return argparse.Namespace(score={2: 0.1, 4: 0.5, 6: 0.3, 9: 0.499}[config.shared.components])

    curve = {"setting": "shared.components", "settings": ["shared.components"], "values": [2, 4, 6, 9], "chosen": 3}
    one = choices.judged({**curve, "score": [0.1, 0.2, 0.2, 0.4]}, Held(), recipe("default"))
    assert (one["inner_best"], one["held_best"], one["held_recipe"]) == (3, 1, 0.3)
    level = choices.judged({**curve, "score": [0.1, 0.4, 0.2, 0.4]}, Held(), recipe("default"))
    assert level["inner_best"] == 3
    assert one["regret"] == pytest.approx({"chosen": 0.001, "fixed": 0.2, "by_lot": 0.5 - 1.399 / 4})
    assert one["as_good"] == {"chosen": True, "fixed": False, "by_lot": 0.5}
    worse = choices.judged({**curve, "score": [0.4, 0.2, 0.2, 0.1], "chosen": 0}, Held(), recipe("default"))
    rows = [{"held_out": "patient", "choices": [one]}, {"held_out": "block", "choices": [worse]}]
    found = choices.summaries(rows)
    assert list(found) == ["all", "by patient", "by block", "shared.components"]
    assert found["all"]["as good, chosen"] == 0.5
    assert found["by block"]["regret, chosen"] == pytest.approx(0.4)
    choices.show_summaries(found)
    assert "by block" in capsys.readouterr().out
    pair = choices.settings_of(["retrieval.k", "retrieval.temperature"], [50, 0.05])
    assert pair == (("retrieval.k", 50), ("retrieval.temperature", 0.05))


def test_placements_on_invented_tissue_are_never_refused(script):
    placement = script("placement")
    counts = placement.simulated(1)
    assert len(counts) == 5
    assert all(set(verdicts) <= {"right", "unknown"} for verdicts in counts.values())
    assert "| all spots on tissue | 0 | 0 | 1 |" in placement.table("true", counts)


def test_a_large_slide_is_read_by_its_levels(script, tmp_path, monkeypatch):
    large = script("large_slide")
    monkeypatch.setattr(large, "SPOTS", 20)
    large.write(tmp_path / "a.tif", 4096, 3)
    row = large.read(tmp_path / "a.tif")
    assert 0.1 < row["tissue"] < 0.3
    assert row["peak_mb"] >= row["start_mb"] > 0
