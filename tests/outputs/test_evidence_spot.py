"""A spot's evidence in words and numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from worlds import PREDICTED_SPOTS, neighbour_table, tiny_prediction

from mclstexp.errors import InputError, MclstexpWarning
from mclstexp.outputs.evidence import spot_evidence
from mclstexp.outputs.origin import reference_of


class Told:
    """Stands for a reference: values of a gene by rank."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def values_of(self, neighbours: pa.Table, gene: str, normalisation: object) -> Any:
        return np.array([self.values[rank - 1] for rank in neighbours["rank"].to_pylist()], dtype=np.float32)


def weighted(*weights: float) -> pa.Table:
    table = neighbour_table(["0x0"], len(weights)).sort_by("rank")
    return table.set_column(
        table.schema.get_field_index("weight"), "weight", pa.array(np.array(weights, dtype=np.float32))
    )


def test_even_weights_are_called_even() -> None:
    even = spot_evidence(tiny_prediction(), "0x0")
    assert even.n_effective == pytest.approx(3)
    assert even.even
    assert even.sentences()[:2] == [
        "0x0 of S1: 3 neighbours from 1 slide of 1 patient, effective number 3.",
        "The weights are nearly even: no single neighbour matters, and what they say is close to the plain mean "
        "of all 3.",
    ]
    uneven = spot_evidence(tiny_prediction(evidence=weighted(0.9, 0.05, 0.05)), "0x0")
    assert uneven.n_effective == pytest.approx(1 / (0.81 + 0.005), rel=1e-5)
    assert not uneven.even
    assert "plain mean" not in " ".join(uneven.sentences())


def test_shares_are_told_where_they_are_recorded() -> None:
    assert "was not recorded" in spot_evidence(tiny_prediction(), "0x0").sentences()[-1]
    n = PREDICTED_SPOTS
    shares = {name: np.full(n, v) for name, v in zip(
        ("share_neighbours", "share_correction", "share_level"), (0.25, 0.6, 0.15), strict=True)}  # fmt: skip
    said = spot_evidence(tiny_prediction(obs=shares), "0x0").sentences()[-1]
    assert said == (
        "Its departure from the reference's mean comes 25% from the neighbours' mean, 60% from the linear correction "
        "and 15% from the slide's level."
    )


def test_a_gene_s_parts_are_told() -> None:
    base = tiny_prediction()
    prediction = tiny_prediction(
        mean=np.full_like(base.mean, 2.5), retrieved=np.full_like(base.mean, 2.0), evidence=weighted(0.5, 0.25, 0.25),
        lower=np.full_like(base.mean, 1.0), upper=np.full_like(base.mean, 4.0),
    )  # fmt: skip
    evidence = spot_evidence(prediction, "0x0", "ERBB2", Told(2, 1, 3))
    assert evidence.neighbours["contribution"].tolist() == [1.0, 0.25, 0.75]
    assert evidence.sums["patient"].loc["p"].to_dict() == {"neighbours": 3.0, "weight": 1.0, "contribution": 2.0}
    assert evidence.sentences()[-2:] == [
        "ERBB2: expected 2.500, of which 2.000 from the neighbours, +0.500 from correction and level; "
        "log1p(counts per 10,000 of the panel).",
        "Its 90% interval is 1.00 to 4.00.",
    ]
    partly = spot_evidence(prediction, "0x0", "ERBB2", Told(2, np.nan, np.nan))
    assert partly.neighbours["contribution"].sum() == 2.0
    assert partly.sentences()[-1] == "2 of 3 neighbours did not measure it and have no part in it."
    unknown = spot_evidence(prediction, "0x0", "OTHER", Told(2, 1, 3))
    assert unknown.sentences()[-1] == "OTHER: 2.000 from the neighbours; it is not among the predicted genes."
    nothing = spot_evidence(prediction, "0x0", "ERBB2", Told(np.nan, np.nan, np.nan)).sentences()
    assert "ERBB2: too few of the neighbours measured it." in nothing


def test_the_json_is_plain_and_whole() -> None:
    values = spot_evidence(tiny_prediction(), "0x0", "ERBB2", Told(2, np.nan, 3)).to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert [row["row_id"] for row in values["neighbours"]] == [1001, 1002, 1003]
    assert values["neighbours"][1]["value"] is None
    assert set(values["by"]) == {"slide", "patient", "cohort"}
    assert len(spot_evidence(tiny_prediction(), "0x0").to_json(top=2)["neighbours"]) == 2


def test_the_reference_is_found_again(shown: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shown.library.folder

    def recorded(**settings: Any) -> Any:
        return tiny_prediction(settings={"scale": "x", **settings})

    assert reference_of(recorded(reference=str(folder), reference_version=1)).version == 1
    monkeypatch.chdir(tmp_path)
    assert reference_of(recorded(reference=folder.name, reference_version=1), beside=folder.parent).version == 1
    with pytest.raises(InputError, match=r"no longer at gone/reference; say where it is with --reference"):
        reference_of(recorded(reference="gone/reference"))
    with pytest.raises(InputError, match="does not say which reference"):
        reference_of(recorded())
    with pytest.warns(MclstexpWarning, match=r"no longer has version 7, .*; version 1 is read"):
        assert reference_of(recorded(reference=str(folder), reference_version=7)).version == 1
    with pytest.raises(InputError, match="version"):
        reference_of(recorded(reference=str(folder), reference_version=1), version=9)


def test_an_earlier_version_of_the_reference_is_read(shown: Any, tmp_path: Path) -> None:
    reference = shown.library.copy(tmp_path / "copy")
    prediction = tiny_prediction(
        settings={**shown.prediction.settings, "reference": str(tmp_path / "copy")}, evidence=neighbour_table([])
    )
    reference.remove(slides=["P1_A"])
    assert (reference.version, reference_of(prediction).version) == (2, 1)
