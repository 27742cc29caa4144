"""Files that somebody sent do not decide where this machine connects to."""

import socket
from pathlib import Path

import pytest
from pages import plain_prediction
from references import Library

import mclstexp
from mclstexp.errors import InputError
from mclstexp.index.reference import Reference
from mclstexp.model.model import Model
from mclstexp.outputs.origin import reference_at_hand, reference_of


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Nothing may be connected to; what was tried is listed."""
    tried: list[object] = []

    def refuse(*arguments: object, **options: object) -> None:
        tried.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


def named(prediction: mclstexp.Prediction, reference: str) -> mclstexp.Prediction:
    fields = {name: getattr(prediction, name) for name in prediction.__dataclass_fields__}
    return mclstexp.Prediction(**{**fields, "settings": {**prediction.settings, "reference": reference}})


@pytest.mark.parametrize("uri", ["s3://attacker/bucket", "http://169.254.169.254/latest", "gs://x/y", "file:///etc"])
def test_a_prediction_does_not_decide_where_to_connect(uri: str, offline: list[object], tmp_path: Path) -> None:
    prediction = named(plain_prediction(), uri)
    with pytest.raises(InputError, match="name it with --reference"):
        reference_of(prediction)
    opened, why = reference_at_hand(prediction)
    assert opened is None
    assert uri in why
    prediction.save(tmp_path / "a.h5ad")
    mclstexp.report(tmp_path / "a.h5ad", tmp_path / "a.html")
    assert offline == []


def test_a_model_and_a_reference_are_opened_without_the_network(library: Library, offline: list[object]) -> None:
    reference = Reference.open(library.folder, device="cpu", cache=False)
    (folder,) = (library.folder / "models").iterdir()
    assert Model.load(folder, device="cpu").digest == reference.model.digest
    assert offline == []
