"""The result as text, JSON, tables and a page."""

import json
import re
from dataclasses import replace

import pytest

from mclstexp.config import Normalisation
from mclstexp.errors import ExistsAlreadyError
from mclstexp.evaluate.baselines import TrainingMean
from mclstexp.evaluate.folds import SplitSpec
from mclstexp.evaluate.protocol import EvaluationProtocol
from mclstexp.evaluate.report import page, write_report
from mclstexp.evaluate.run import run_evaluation

SCALE = Normalisation()


def test_by_slide_shouts_in_every_output(world, tmp_path):
    protocol = EvaluationProtocol(split=SplitSpec(by="slide"), n_genes=20)
    result = run_evaluation(world.slides, [TrainingMean(SCALE)], protocol)
    assert any("LEAKAGE BY DESIGN" in text for text in result.to_json()["warnings"])
    assert "LEAKAGE BY DESIGN" in write_report(result, tmp_path / "out").read_text()


def test_json_is_strict_and_tables_fit_their_headers(result):
    text = json.dumps(result.to_json(), allow_nan=False)
    assert {row["method"] for row in json.loads(text)["overall"]} == set(result.methods)
    for header, rows in (result.table(), result.slide_table()):
        assert rows
        assert {len(row) for row in rows} == {len(header)}
    assert "pcc_nan_dropped" not in result.table()[0]
    assert any("leave one patient out; 3 folds: A (train 3, test 2)" in line for line in result.describe())


def test_the_report_is_whole_and_refuses_to_overwrite(result, tmp_path):
    path = write_report(result, tmp_path / "out")
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "evaluation.json",
        "genes.csv",
        "overall.csv",
        "report.html",
        "slides.csv",
    ]
    text = path.read_text()
    assert len(re.findall("data:image/png;base64,", text)) == 5
    assert "http" not in text.replace("http-equiv", "")
    assert len((path.parent / "genes.csv").read_text().splitlines()) == 1 + len(result.summaries[0].gene_pcc)
    with pytest.raises(ExistsAlreadyError, match="--force"):
        write_report(result, tmp_path / "out")
    write_report(replace(result, maps=(), domain_maps=()), tmp_path / "out", force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_training_chose_is_told_and_drawn(result):
    curve = {"setting": "shared.components", "values": [6, 40], "score": [0.2, None, 0.3], "chosen": 1}
    record = {"method": "default", "seed": 0, "held_out": "slide", "curves": [curve, {"setting": "bare"}]}
    folds = ({**result.folds[0], "learned": [record, {"method": "other", "seed": 1}]}, *result.folds[1:])
    plain = replace(result, maps=(), domain_maps=())
    without = page(plain)
    text = page(replace(plain, folds=folds))
    assert text.count("data:image/png;base64,") == 1 + without.count("data:image/png;base64,")
    assert "Settings chosen on slides held out" in text
    assert "<td>shared.components</td><td>40</td>" in text
    assert "other without A, seed 1" in text
    assert "What training chose" not in without
