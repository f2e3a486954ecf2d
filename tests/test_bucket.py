"""Storage in a bucket, by a real S3 server on this machine: moto's."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from data.buckets import RefusedError, is_away, refusal
from data.errors import InputError
from data.patience import StorageGoneError
from data.storage import Storage
from grid.lock import FILE, RunLock
from trainers.fence import Fence, FencedError, FencedStorage, begin_attempt

KEY, SECRET = "AKIATESTTESTTESTTEST", "secret-that-must-not-be-shown"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Forwarder:
    """Passes connections on to the server, refuses them while ``closed``, and counts requests.

    The answers of the next ``losing`` writes are lost: they are done, and the connection breaks.
    """

    def __init__(self, target: int):
        self.target, self.port = target, free_port()
        self.requests: list[bytes] = []
        self.losing = 0
        self._listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, listener), daemon=True).start()

    def _serve(self, client: socket.socket, listener: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target))
        lost = threading.Event()

        def answer() -> None:
            try:
                while content := server.recv(65536):
                    if lost.is_set():
                        break
                    client.sendall(content)
            except OSError:
                pass
            _end(client, server)

        threading.Thread(target=answer, daemon=True).start()
        try:
            while content := client.recv(65536):
                if listener.fileno() < 0:
                    break
                verb = content.split(b" ", 1)[0]
                if verb in (b"GET", b"PUT", b"HEAD", b"POST", b"DELETE"):
                    self.requests.append(content.split(b"\r\n", 1)[0])
                    if verb == b"PUT" and self.losing:
                        self.losing -= 1
                        lost.set()
                server.sendall(content)
        except OSError:
            pass
        _end(client, server)


def _end(*connections: socket.socket) -> None:
    """At once, also where another thread waits for what comes."""
    for each in connections:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, str(port)], **quiet)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except URLError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def forwarder(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forwarder]:
    import s3fs

    forwarder = Forwarder(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{forwarder.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("SEMIGRID_STORAGE_PATIENCE", "20")
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server}").create_bucket(Bucket="shop")
    yield forwarder
    s3fs.S3FileSystem.clear_instance_cache()
    forwarder.close()


@pytest.fixture
def storage(forwarder: Forwarder, request: pytest.FixtureRequest) -> Storage:
    return Storage(f"s3://shop/{request.node.name.replace('[', '-').replace(']', '')}")


def test_what_was_written_is_read(storage: Storage) -> None:
    assert not storage.exists() and not storage.is_folder() and storage.names("a") == []
    storage.write("a/one.json", b"one")
    storage.write("a/two.txt", b"two!")
    assert storage.read("a/one.json") == b"one" and storage.size("a/two.txt") == 4
    assert storage.names("a", ".json") == ["one.json"] and storage.is_folder()
    assert storage.sizes("a") == {"one.json": 3, "two.txt": 4}
    storage.keep("a/one.json", "a/kept")
    with storage.open("a/two.txt") as file:
        file.seek(1)
        assert file.read(2) == b"wo"
    storage.delete("a/one.json")
    assert storage.names("a") == ["kept", "two.txt"]
    storage.delete("")
    assert not storage.exists()
    with pytest.raises(FileNotFoundError):
        storage.read("a/one.json")


def test_an_attempt_that_was_given_up_changes_nothing(storage: Storage) -> None:
    fenced = FencedStorage(storage, Fence(storage, "trial", begin_attempt(storage, "trial")))
    fenced.write("a/one", b"one")
    begin_attempt(storage, "trial")
    changes = [
        lambda: fenced.write("a/one", b"two"),
        lambda: fenced.keep("a/one", "a/two"),
        lambda: fenced.delete("a/one"),
        lambda: fenced.delete("a"),
    ]
    for change in changes:
        with pytest.raises(FencedError):
            change()
    assert storage.read("a/one") == b"one" and storage.names("a") == ["one"]


def test_few_requests(storage: Storage, forwarder: Forwarder) -> None:
    names = [f"ledger/{number}.json" for number in range(20)]
    storage.exists()

    def asked() -> list[str]:
        found = [line.split(b" ")[0].decode() for line in forwarder.requests]
        forwarder.requests.clear()
        return found

    asked()
    storage.write(names[0], b"{}")
    assert asked() == ["PUT"]
    for name in names[1:]:
        storage.write(name, b"{}")
    asked()
    assert storage.read_all([*names, "ledger/none"]) == dict.fromkeys(names, b"{}")
    assert asked() == ["GET"] * 21
    assert len(storage.names("ledger")) == 20
    assert asked() == ["GET"]


def test_a_server_that_refuses_connections_is_waited_for(
    storage: Storage, forwarder: Forwarder
) -> None:
    storage.write("file", b"content")
    file = storage.open("file")
    forwarder.close()
    threading.Timer(2, forwarder.open).start()
    started = time.monotonic()
    assert file.read(3) == b"con"
    assert time.monotonic() - started > 1
    storage.write("file", b"other")
    assert storage.read("file") == b"other"


def test_patience_ends_with_one_error(storage: Storage, forwarder: Forwarder) -> None:
    forwarder.close()
    try:
        with pytest.raises(StorageGoneError, match=r"away for 0\.5 seconds") as error:
            Storage(storage.uri, patience=0.5).read("file")
        assert SECRET not in str(error.value)
    finally:
        forwarder.open()


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lock_whose_answer_was_lost_is_ones_own(
    lost: int, storage: Storage, forwarder: Forwarder
) -> None:
    forwarder.losing = lost
    with RunLock(storage, lambda words: None, lambda: None, interval=0.5):
        assert forwarder.losing == 0
        with pytest.raises(InputError, match="another run is at work here"):
            RunLock(storage, lambda words: None, lambda: None, interval=0.5).__enter__()
    assert not storage.exists(FILE)


def test_of_many_contenders_one_gets_the_lock(storage: Storage) -> None:
    held: list[RunLock] = []

    def contend(number: int) -> None:
        lock = RunLock(storage, lambda words: None, lambda: None, interval=0.5)
        try:
            held.append(lock.__enter__())
        except InputError as error:
            assert "another run is at work" in str(error)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(contend, range(4)))
    assert len(held) == 1
    held[0].__exit__(None, None, None)


def test_a_write_loses_to_one_made_meanwhile(storage: Storage) -> None:
    assert storage.write_if_unchanged("file", b"one", None)
    assert not storage.write_if_unchanged("file", b"two", None)
    etag = storage.etag("file")
    assert storage.write_if_unchanged("file", b"three", etag)
    assert not storage.write_if_unchanged("file", b"four", etag)
    assert storage.read("file") == b"three"


def answer(status: int, code: str) -> ClientError:
    facts = {"Error": {"Code": code, "Message": f"no, {SECRET}"}}
    return ClientError({**facts, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    "error",
    [
        answer(503, "SlowDown"),
        answer(500, "InternalError"),
        answer(502, "502"),
        answer(429, "TooManyRequests"),
        answer(400, "RequestTimeout"),
        EndpointConnectionError(endpoint_url="http://here"),
        ReadTimeoutError(endpoint_url="http://here"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_what_passes(error: Exception) -> None:
    assert is_away(error) and refusal(error, "s3://shop/a") is None


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (answer(403, "InvalidAccessKeyId"), "credentials of this machine are wrong"),
        (answer(403, "SignatureDoesNotMatch"), "credentials of this machine are wrong"),
        (answer(403, "AccessDenied"), "must be allowed"),
        (answer(400, "ExpiredToken"), "may have expired"),
        (answer(404, "NoSuchBucket"), "make the bucket"),
        (answer(301, "PermanentRedirect"), "AWS_DEFAULT_REGION"),
        (NoCredentialsError(), "AWS_ACCESS_KEY_ID"),
    ],
)
def test_what_is_refused(error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    found = refusal(error, "s3://shop/a")
    assert not is_away(error) and found is not None
    assert advice in str(found) and "s3://shop/a" in str(found)
    assert SECRET not in str(found) and "\n" not in str(found)


@pytest.mark.parametrize("error", [answer(404, "NoSuchKey"), answer(507, "StorageFull")])
def test_what_is_neither(error: Exception) -> None:
    assert not is_away(error) and refusal(error, "s3://shop/a") is None


def run_status(folder: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grid.cli", "status", folder]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_missing_bucket_and_wrong_credentials_are_said_at_once(
    forwarder: Forwarder, server: int
) -> None:
    with pytest.raises(RefusedError, match="NoSuchBucket"):
        Storage("s3://none/a").write("file", b"")
    done = run_status("s3://none/a")
    assert done.returncode == 2 and "make the bucket" in done.stderr, done.stderr
    check = Request(
        f"http://127.0.0.1:{server}/moto-api/reset-auth", b"0", {"Content-Type": "text"}
    )
    try:
        urlopen(check).close()
        done = run_status("s3://shop/a")
    finally:
        check.data = b"inf"
        urlopen(check).close()
    assert done.returncode == 2, done.stderr
    assert "s3://shop/a: the storage refuses" in done.stderr
    assert done.stderr.count("\n") == 1 and SECRET not in done.stderr


def test_credentials_do_not_belong_into_a_uri() -> None:
    with pytest.raises(InputError, match="credentials in a URI") as error:
        Storage(f"s3://{KEY}:{SECRET}@shop/a")
    assert SECRET not in str(error.value)
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") != SECRET
