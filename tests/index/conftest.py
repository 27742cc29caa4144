"""Where the references of the tests lie: a temporary folder, or a bucket of moto's S3 server on loopback.

Tests ask `where(name)` for the path or URI of a reference. Those marked `BOTH` run on both; with MST_TEST_STORE=s3 all
of them run on the bucket.
"""

import logging
import os
import uuid

import pytest


@pytest.fixture(scope="session")
def s3():
    """URI of a bucket; the options to reach it are in the environment."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    options = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }
    before = {name: os.environ.get(name) for name in options}
    os.environ.update(options)
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket="references")
    yield "s3://references"
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


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
