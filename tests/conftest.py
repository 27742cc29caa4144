"""Shared fixtures: small simulated slides, and the real data where it is at hand."""

import os

# Small tensors: threads cost more than they give. Numba, which scanpy starts, would raise torch's number again.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from mclstexp.slide import Slide

LONGEST = ("test_tutorials.py", "test_table.py", "test_browser.py", "test_interrupt.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that of two processes none is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, or a skip that says so."""
    folder = Path(os.environ.get("MST_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "her2st").is_dir():
        pytest.skip(f"the real data is not here ({folder}); set MST_SHARED")
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> list[Slide]:
    """Four slides of four patients, image and counts."""
    from worlds import tiny_slides

    return tiny_slides(tmp_path_factory.mktemp("cohort"), n=4)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """URI of a bucket; the options to reach it are in the environment.

    The server is moto's, started here; MST_TEST_S3=http://127.0.0.1:8333 names another that runs on this machine.
    """
    boto3 = pytest.importorskip("boto3")
    with contextlib.ExitStack() as held:
        endpoint = os.environ.get("MST_TEST_S3") or _moto(held)
        options = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": endpoint,
            "AWS_ALLOW_HTTP": "true",
        }
        patch = held.enter_context(pytest.MonkeyPatch.context())
        for name, value in options.items():
            patch.setenv(name, value)
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        bucket = f"references-{os.getpid()}"
        client.create_bucket(Bucket=bucket)
        yield f"s3://{bucket}"


def _moto(held: contextlib.ExitStack) -> str:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    held.callback(server.stop)
    return "http://{}:{}".format(*server.get_host_and_port())
