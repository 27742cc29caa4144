"""Where the references of the tests lie: a temporary folder, or a bucket of moto's S3 server on loopback.

Tests ask `where(name)` for the path or URI of a reference. Those marked `BOTH` run on both; with MST_TEST_STORE=s3 all
of them run on the bucket.
"""

import os
import uuid

import pytest


@pytest.fixture
def where(request, tmp_path, monkeypatch):
    """A function from a name to the path or URI of a reference that is not there yet."""
    kind = getattr(request, "param", os.environ.get("MST_TEST_STORE", "local"))
    if kind == "local":
        return lambda name="ref": tmp_path / name
    bucket = request.getfixturevalue("s3")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = uuid.uuid4().hex
    return lambda name="ref": f"{bucket}/{folder}/{name}"
