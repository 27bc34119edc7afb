"""An S3 server of the tests' own (moto's), and stores in it."""

import os
import uuid
from collections.abc import Iterator

import pytest
import s3fs
from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Its URL. While it runs, S3 is there, for this process and those that it starts."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": url}.items():
            patch.setitem(os.environ, name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield url
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(s3_server: str) -> str:
    """The name of a new, empty one."""
    name = f"weights-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return name
