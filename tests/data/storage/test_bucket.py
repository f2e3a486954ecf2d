"""Storage in a bucket, by a real S3 server on this machine: moto's."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import timm
import torch
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from tests.helpers.buckets import KEY, SECRET, Forwarder, S3Server, credentials, s3_server
from tests.helpers.shop import SETTINGS, shop, tile

from semigrid.data.builder.ingest import build_dataset
from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError, RefusedError, StorageGoneError
from semigrid.data.sources.archives import webdataset_items
from semigrid.data.sources.files import folder_items
from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.bucket import S3_OPTIONS, BucketFiles, open_filesystem
from semigrid.data.storage.bucket_errors import is_away
from semigrid.grid.study.layout import LOCK
from semigrid.grid.study.lock import RunLock
from semigrid.trainers.models.pretrained import from_file
from semigrid.trainers.models.weights import file_weights
from semigrid.trainers.trial.fence import Fence, FencedError, begin_attempt


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def forwarder(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forwarder]:
    import s3fs

    forwarder = Forwarder(server.port)
    for name, value in credentials(forwarder.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SEMIGRID_STORAGE_PATIENCE", "20")
    s3fs.S3FileSystem.clear_instance_cache()
    yield forwarder
    s3fs.S3FileSystem.clear_instance_cache()
    forwarder.close()


@pytest.fixture
def storage(forwarder: Forwarder, request: pytest.FixtureRequest) -> Storage:
    return open_storage(f"s3://shop/{request.node.name.replace('[', '-').replace(']', '')}")


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
    fence = Fence(storage, "trial", begin_attempt(storage, "trial"))
    fenced = replace(storage, confirm=fence.check)
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
    assert storage.folders("") == ["ledger"]
    assert asked() == ["GET"]
    assert storage.folders("none") == []


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


def test_a_server_that_says_nothing_is_waited_for(
    storage: Storage, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(S3_OPTIONS, "config_kwargs", {"read_timeout": 1, "connect_timeout": 1})
    storage.write("file", b"content")
    hurried = open_storage(storage.uri)
    assert hurried.read("file") == b"content"
    server.process.send_signal(signal.SIGSTOP)
    threading.Timer(4, lambda: server.process.send_signal(signal.SIGCONT)).start()
    started = time.monotonic()
    hurried.write("other", b"more")
    assert time.monotonic() - started > 2
    assert storage.read("other") == b"more"


def test_images_in_a_bucket_that_fails_become_the_same_dataset(
    storage: Storage, forwarder: Forwarder, tmp_path: Path
) -> None:
    local = shop(tmp_path / "shop", images=30)
    far = copied(local, storage.folder("raw"))
    settings = SETTINGS.model_copy(update={"shorter_side": 4})
    expected, _ = build_dataset(str(tmp_path / "set"), folder_items(str(local)), settings)

    def fail(done: int, total: int) -> None:
        if done == 2 * SETTINGS.chunk_images:
            forwarder.close()
            threading.Timer(2, forwarder.open).start()

    items = folder_items(far.uri)
    built, report = build_dataset(storage.folder("set").uri, items, settings, progress=fail)
    assert built.manifest.fingerprint == expected.manifest.fingerprint
    assert sum(report["splits"].values()) == 30, report
    assert open_dataset(storage.folder("set").uri).read("train").ids == expected.read("train").ids


def test_a_bucket_that_stays_away_ends_a_build_and_drops_no_image(
    storage: Storage, forwarder: Forwarder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = copied(shop(tmp_path / "shop", images=20), storage.folder("raw"))
    items = folder_items(far.uri)
    monkeypatch.setenv("SEMIGRID_STORAGE_PATIENCE", "0.5")
    forwarder.close()
    try:
        with pytest.raises(StorageGoneError):
            items[0].read()
        with pytest.raises(StorageGoneError):
            build_dataset(str(tmp_path / "set"), items, SETTINGS)
        with pytest.raises(StorageGoneError):
            folder_items(far.uri)
    finally:
        forwarder.open()
    _, report = build_dataset(str(tmp_path / "set"), items, SETTINGS)
    assert sum(report["splits"].values()) == 20, report


def copied(folder: Path, to: Storage) -> Storage:
    for file in folder.rglob("*.png"):
        to.write(str(file.relative_to(folder)), file.read_bytes())
    return to


def test_tars_in_a_bucket_are_read_in_few_requests(storage: Storage, forwarder: Forwarder) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:") as tar:
        for number in range(20):
            for name, content in (("png", tile(number)), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    storage.write("shards/0.tar", packed.getvalue())
    forwarder.requests.clear()
    items = webdataset_items(storage.folder("shards").uri)
    assert len(forwarder.requests) < 8, forwarder.requests
    assert [item.label for item in items[:3]] == ["0", "1", "0"]
    assert [item.read() for item in items] == [tile(number) for number in range(20)]


def test_weights_in_a_bucket_are_known_by_their_hash(
    storage: Storage, forwarder: Forwarder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMIGRID_CACHE", str(tmp_path))
    model = timm.create_model("resnet18", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    storage.write("w.pth", (tmp_path / "w.pth").read_bytes())
    uri = f"{storage.uri}/w.pth"
    found = file_weights(uri, None, "resnet18")
    assert found.sha256 == file_weights(str(tmp_path / "w.pth"), None, "resnet18").sha256
    forwarder.close()
    threading.Timer(1, forwarder.open).start()
    with from_file(uri, str(found.sha256), "resnet18") as overlay:
        loaded = timm.create_model(
            "resnet18", pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay
        )
    assert torch.equal(loaded.conv1.weight, model.conv1.weight)
    storage.write("w.pth", b"another")
    assert file_weights(uri, None, "resnet18").sha256 != found.sha256
    with pytest.raises(InputError, match="no such file"):
        file_weights(f"{storage.uri}/none.pth", None, "resnet18")
    with pytest.raises(RefusedError, match="make the bucket"):
        file_weights("s3://none/w.pth", None, "resnet18")


def test_patience_ends_with_one_error(storage: Storage, forwarder: Forwarder) -> None:
    forwarder.close()
    try:
        with pytest.raises(StorageGoneError, match=r"away for 0\.5 seconds") as error:
            open_storage(storage.uri, patience=0.5).read("file")
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
    assert not storage.exists(LOCK)


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
    fs, root = open_filesystem(storage.uri)
    files, path = BucketFiles(fs, root), f"{root}/file"
    for content in (b"one", b"two"):
        files._put_if_unchanged(path, content, None, None)
    assert storage.read("file") == b"one"
    etag = fs.info(path)["ETag"]
    for content in (b"three", b"four"):
        files._put_if_unchanged(path, content, b"one", etag)
    assert storage.read("file") == b"three"
    storage.delete("file")
    files._put_if_unchanged(path, b"five", b"three", etag)
    assert not storage.exists("file")


def test_a_swap_needs_the_content_that_was_read(storage: Storage) -> None:
    for old, new in ((None, b"one"), (None, b"two"), (b"one", b"three"), (b"one", b"four")):
        storage.swap("file", old, new)
    assert storage.read("file") == b"three"
    storage.swap("file", b"two", None)
    assert storage.exists("file")
    storage.swap("file", b"three", None)
    assert not storage.exists("file")


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
    assert is_away(error, "s3://shop/a")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (answer(403, "InvalidAccessKeyId"), "credentials of this machine are wrong"),
        (answer(403, "SignatureDoesNotMatch"), "credentials of this machine are wrong"),
        (answer(403, "AccessDenied"), "must be allowed"),
        (answer(403, "InvalidObjectState"), "restore the object"),
        (answer(400, "ExpiredToken"), "may have expired"),
        (answer(404, "NoSuchBucket"), "make the bucket"),
        (answer(301, "PermanentRedirect"), "AWS_DEFAULT_REGION"),
        (NoCredentialsError(), "AWS_ACCESS_KEY_ID"),
    ],
)
def test_what_is_refused(error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(RefusedError) as refused:
        is_away(error, "s3://shop/a")
    found = refused.value
    assert advice in str(found) and "s3://shop/a" in str(found)
    assert found.one_object == (advice in ("must be allowed", "restore the object"))
    assert SECRET not in str(found) and "\n" not in str(found)


@pytest.mark.parametrize("error", [answer(404, "NoSuchKey"), answer(507, "StorageFull")])
def test_what_is_neither(error: Exception) -> None:
    assert not is_away(error, "s3://shop/a")


def run_status(folder: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semigrid", "status", folder]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_missing_bucket_and_wrong_credentials_are_said_at_once(
    forwarder: Forwarder, server: S3Server
) -> None:
    none = open_storage("s3://none/a")
    attempts: list[Callable[[], object]] = [
        lambda: none.write("file", b""),
        lambda: none.swap("file", None, b""),
        lambda: none.swap("file", b"", None),
        none.check_could_write,
        # a storage says no word about the refusal of another one
        lambda: replace(open_storage("s3://shop/a"), confirm=none.check_writable).write("f", b""),
    ]
    for attempt in attempts:
        with pytest.raises(RefusedError, match=r"^s3://none/a: .*NoSuchBucket") as refused:
            attempt()
        assert str(refused.value).count("make the bucket") == 1
    open_storage("s3://shop/none").check_could_write()
    done = run_status("s3://none/a")
    assert done.returncode == 2 and "make the bucket" in done.stderr, done.stderr
    check = Request(
        f"http://127.0.0.1:{server.port}/moto-api/reset-auth", b"0", {"Content-Type": "text"}
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
        open_storage(f"s3://{KEY}:{SECRET}@shop/a")
    assert SECRET not in str(error.value)
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") != SECRET
