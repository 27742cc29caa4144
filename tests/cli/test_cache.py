"""``mst cache``: what is kept, the limit, and clearing."""

import json
from pathlib import Path

import numpy as np
from commands import command, usage_of

from mclstexp.model.image.cache import FeatureCache

FIELD = "ab" * 32


def filled(folder: Path) -> Path:
    values = np.ones((5, 100), dtype=np.float32)
    FeatureCache(folder).store(FIELD, np.arange(10.0).reshape(5, 2), values, {"encoder": "resnet50", "image": "a.tif"})
    return folder


def test_it_says_what_is_kept(tmp_path: Path) -> None:
    mst = command(filled(tmp_path))
    said = mst("cache")
    assert said.stdout.splitlines()[1].split()[:3] == ["resnet50", "1", "5"]
    assert "of at most 20.0 GB" in said.stderr
    known = json.loads(mst("cache", tmp_path, "--json").stdout)
    assert known["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert known["encoders"][0]["patches"] == 5


def test_a_limit_is_kept_to_and_clearing_clears(tmp_path: Path) -> None:
    mst = command(filled(tmp_path))
    assert "of at most 5.0 GB" in mst("cache", "--limit", "5GB").stderr
    assert list(tmp_path.rglob("*.safetensors"))
    assert "dropped" in mst("cache", "--limit", "1kB").stderr
    assert not list(tmp_path.rglob("*.safetensors"))
    filled(tmp_path)
    assert "removed" in mst("cache", "--clear").stderr
    assert not list(tmp_path.rglob("*.safetensors"))
    assert "of at most 1.0 kB" in mst("cache").stderr, "clearing keeps the limit"


def test_a_limit_that_is_no_size_is_refused(tmp_path: Path) -> None:
    for limit in ("much", "-5GB", "nan", "1e30TB"):
        assert "is no size" in usage_of(command(tmp_path)("cache", "--limit", limit, ok=False))
