"""A gene at the neighbours, read from the reference: parts sum to the mean, and another reference is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from references import Library, build_library, quietly, without_counts

from mclstexp.data.genes.expression import expression_for
from mclstexp.errors import InputError, MismatchError
from mclstexp.index.reference import Reference
from mclstexp.predict.prediction import Prediction


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build_library(tmp_path_factory.mktemp("library"))


def predicted(library: Library, **options: object) -> Prediction:
    return quietly(Reference.open(library.folder, device="cpu"), without_counts(library.slides[4]), **options)


@pytest.mark.parametrize("genes", [None, "all"])
def test_contributions_sum_to_the_neighbours_mean(library: Library, genes: str | None) -> None:
    prediction = predicted(library, genes=genes)
    mean = prediction.mean if prediction.retrieved is None else prediction.retrieved
    for column in (0, len(prediction.genes) - 1):
        for i in (0, 20):
            frame = prediction.neighbours(str(prediction.spot_ids[i]), prediction.genes.symbols[column])
            assert frame["contribution"].sum() == pytest.approx(mean[i, column], rel=1e-3, abs=1e-3)


def test_values_are_the_reference_spots_own(library: Library) -> None:
    prediction = predicted(library)
    gene = prediction.genes.symbols[3]
    frame = prediction.neighbours(str(prediction.spot_ids[0]), gene)
    for slide, rows in frame.groupby("slide"):
        spots = next(one for one in library.slides if one.slide_id == slide).spots
        whole, _ = expression_for(spots, prediction.genes, library.model.config.normalisation)
        at = [spots.spot_ids.tolist().index(spot) for spot in rows["spot"]]
        np.testing.assert_allclose(rows["value"], whole[at, 3], rtol=2e-3, atol=2e-3)


def test_a_loaded_prediction_says_which_reference_to_give(library: Library, tmp_path: Path) -> None:
    predicted(library).save(tmp_path / "p.h5ad")
    loaded = Prediction.load(tmp_path / "p.h5ad")
    spot, gene = str(loaded.spot_ids[0]), loaded.genes.symbols[0]
    with pytest.raises(InputError, match=r"give reference=mclstexp.Reference.open\('.*reference', version=1\)"):
        loaded.neighbours(spot, gene)
    reference = Reference.open(library.folder, device="cpu")
    assert loaded.neighbours(spot, gene, reference)["value"].notna().all()
    with pytest.raises(InputError, match="'NOPE' is not among the"):
        loaded.neighbours(spot, "NOPE", reference)
    assert loaded.embedding is not None
    np.testing.assert_array_equal(loaded.embedding, loaded.adata.obsm["embedding"])
    np.testing.assert_allclose(np.linalg.norm(loaded.embedding, axis=1), 1, rtol=1e-5)


def test_another_reference_is_refused(library: Library, tmp_path: Path) -> None:
    reference, evidence = library.copy(tmp_path / "copy"), predicted(library).evidence
    reference.check_neighbours(evidence)
    renamed = evidence.set_column(
        evidence.schema.get_field_index("spot_id"), "spot_id", pa.array(["?"] * evidence.num_rows)
    )
    with pytest.raises(MismatchError, match=r"row \d+ is P\d_. .*, and P\d_. \? in the prediction; .*--reference"):
        reference.check_neighbours(renamed)
    slide = pc.unique(evidence["slide"]).to_pylist()[0]
    reference.remove(slides=[slide])
    with pytest.raises(MismatchError, match=rf"row \d+ is not there, and {slide} .* in the prediction"):
        reference.check_neighbours(evidence)
