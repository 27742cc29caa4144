"""A reference with a prediction of another patient's slide, images at hand."""

from dataclasses import dataclass

import pytest
from references import Library, build_library, quietly, without_counts

from mclstexp.index.reference import Reference
from mclstexp.predict.prediction import Prediction


@dataclass(frozen=True)
class Shown:
    library: Library
    reference: Reference
    prediction: Prediction


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    library = build_library(tmp_path_factory.mktemp("library"))
    reference = Reference.open(library.folder, device="cpu", cache=False)
    return Shown(library, reference, quietly(reference, without_counts(library.slides[4])))
