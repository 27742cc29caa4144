"""One section under two names."""

import shutil

import pytest
from layouts import COUNTS, save_h5ad

from mclstexp.data.readers import inspect_slides, read_slides
from mclstexp.errors import MclstexpWarning


def test_a_section_under_two_names_is_said(tmp_path):
    save_h5ad(tmp_path / "S1.h5ad")
    shutil.copy(tmp_path / "S1.h5ad", tmp_path / "S2.h5ad")
    save_h5ad(tmp_path / "S3.h5ad", counts=COUNTS[::-1].copy())
    with pytest.warns(MclstexpWarning, match="Slide S2: the very same counts as S1"):
        assert len(read_slides(tmp_path)) == 3
    said = {report.slide_id: " ".join(report.warnings) for report in inspect_slides(tmp_path)}
    assert "very same counts as S1" in said["S2"]
    assert not any("very same" in said[name] for name in ("S1", "S3"))
