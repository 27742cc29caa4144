"""The map of the space that is searched."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mclstexp.errors import InputError, MismatchError
from mclstexp.outputs.maps import embedding
from mclstexp.outputs.maps.embedding import draw_layout, embedding_map, lay_out, umap
from mclstexp.outputs.maps.style import style


@pytest.fixture
def first_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay points out by their first two coordinates: UMAP takes seconds, and is tested once."""
    monkeypatch.setattr(embedding, "umap", lambda points, seed: points[:, :2])


def test_points_are_the_reference_s_keys_and_the_query_s_patches(shown: Any, first_two: None) -> None:
    layout = lay_out(shown.prediction, shown.reference)
    store = shown.reference.store
    assert layout.total == len(layout.reference) == len(shown.reference)
    ids = np.concatenate([np.arange(*entry.rows) for entry in store.entries])
    np.testing.assert_array_equal(layout.reference, store.embeddings(ids)[:, :2])
    np.testing.assert_array_equal(layout.query, shown.prediction.embedding[:, :2])
    assert layout.groups["slide"] == store.spots(ids, ["slide_id"])["slide_id"].to_pylist()
    np.testing.assert_allclose(layout.familiarity, shown.prediction.obs["familiarity"], rtol=1e-6)


def test_a_sample_is_the_same_for_the_same_seed(shown: Any, first_two: None) -> None:
    one, again, other = (lay_out(shown.prediction, shown.reference, sample=10, seed=seed) for seed in (1, 1, 2))
    assert one.reference.shape == (10, 2)
    assert one.query.shape == (10, 2)
    np.testing.assert_array_equal(one.reference, again.reference)
    assert not np.array_equal(one.reference, other.reference)


def test_the_picture_names_groups_and_says_what_is_not_known(shown: Any, first_two: None, tmp_path: Path) -> None:
    layout = lay_out(shown.prediction, shown.reference)
    unlabelled = replace(layout, groups={**layout.groups, "label": ["unknown"] * layout.total})
    with style():
        figure = draw_layout(unlabelled, "S1")
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes[:2]]
    assert legends == [["P1", "P2"], ["P1_A", "P1_B", "P2_A", "P2_B"]]
    assert [text.get_text() for text in figure.axes[2].texts] == ["no label is known"]
    embedding_map(shown.prediction, shown.reference, tmp_path / "e.png", dpi=50)
    assert (tmp_path / "e.png").stat().st_size > 1000


def test_what_cannot_be_laid_out_is_refused(shown: Any) -> None:
    with pytest.raises(InputError, match=r"holds no embeddings.*repeat mst query"):
        lay_out(replace(shown.prediction, embedding=None), shown.reference)
    other = replace(shown.prediction, settings={**shown.prediction.settings, "model": "f" * 64})
    with pytest.raises(MismatchError, match=r"made with model f{12}, reference .* --reference"):
        lay_out(other, shown.reference)
    with pytest.raises(InputError, match="3 spots are too few"):
        umap(np.eye(3, dtype=np.float32), 0)


UMAP = """
import numpy as np
from mclstexp.outputs.maps.embedding import umap
rng = np.random.default_rng(0)
points = np.repeat(np.eye(2, 6), 4, axis=0) + 0.02 * rng.normal(size=(8, 6))
points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
flat = umap(points, 3)
assert np.array_equal(flat, umap(points, 3))
within = max(np.ptp(flat[:4], axis=0).max(), np.ptp(flat[4:], axis=0).max())
assert np.linalg.norm(flat[:4].mean(axis=0) - flat[4:].mean(axis=0)) > within
"""


def test_umap_is_seeded_and_keeps_clusters_apart() -> None:
    """In a process without numba's compiler, which would take ten seconds for eight points."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", UMAP], capture_output=True, text=True, check=False, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
