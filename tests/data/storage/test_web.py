"""Files at web addresses: what servers of strangers may do, and what is read of them."""

import io
import pickle
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.helpers.web import Web, busy_for, endless, redirect, status, web_server

from semigrid.data.errors import InputError, ServerBusyError, StorageGoneError
from semigrid.data.storage import busy, open_storage, web


@pytest.fixture
def server() -> Iterator[Web]:
    with web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host has been asked yet: ports are used again."""
    monkeypatch.setattr(web, "_vain", Counter())
    monkeypatch.setattr(web, "_answered", set())
    monkeypatch.setattr(busy, "_told", set())
    monkeypatch.setattr(busy, "_busy_since", {})
    monkeypatch.setattr(busy, "_left_alone", {})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for a server for a moment only."""
    monkeypatch.setattr(web, "REQUEST_SECONDS", 0.4)
    monkeypatch.setattr(web, "READ_SECONDS", 0.2)


def test_a_file_is_read_with_its_signature(server: Web) -> None:
    server.answers["/a b.png"] = b"content"
    storage = open_storage(f"{server.url}/a b.png?X-Amz-Signature=SECRET")
    assert storage.read() == pickle.loads(pickle.dumps(storage)).read() == b"content"
    assert server.asked[0] == ("/a%20b.png?X-Amz-Signature=SECRET", None)
    assert storage.read(limit=7) == b"content"
    with pytest.raises(OSError, match="larger than 6 bytes"):
        storage.read(limit=6)


def test_parts_of_a_file_are_read(server: Web) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2]}), buffer)
    server.answers["/t.parquet"] = buffer.getvalue()
    with open_storage(f"{server.url}/t.parquet?sig=SECRET").open() as file:
        assert pq.read_table(file)["a"].to_pylist() == [1, 2]


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (status(404), FileNotFoundError, "No such file"),
        (status(403), OSError, "HTTP 403 Forbidden"),
        (status(500), OSError, "HTTP 500"),
        (redirect("file:///etc/passwd"), OSError, "Redirect.*file:///etc/passwd"),
        (redirect("ftp://h/a?sig=SECRET"), OSError, "Redirect.*ftp://h/a"),
        (redirect("http://"), OSError, "Redirect"),
    ],
)
def test_what_servers_answer_is_an_oserror(
    answer: Any, kind: type[OSError], says: str, server: Web
) -> None:
    server.answers["/a"] = answer
    storage = open_storage(f"http://user:SECRET@{server.host}/a?sig=SECRET")
    for work in (storage.read, storage.version, storage.open):
        with pytest.raises(kind, match=says if work == storage.read else None) as raised:
            work()
        assert "SECRET" not in str(raised.value)


def test_credentials_stay_with_their_host(server: Web) -> None:
    with web_server() as other:
        server.answers["/a"] = redirect(f"{other.url}/b")
        other.answers["/b"] = b"content"
        assert open_storage(f"http://user:pw@{server.host}/a").read() == b"content"
        assert server.asked == [("/a", "Basic dXNlcjpwdw==")] and other.asked == [("/b", None)]


def test_an_endless_file_is_read_up_to_the_limit(server: Web) -> None:
    server.answers["/a"] = endless
    with pytest.raises(OSError, match="larger than 1,000,000 bytes"):
        open_storage(f"{server.url}/a").read(limit=10**6)


def silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(2)


def hanging_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(20):
        handler.wfile.write(b"a")
        time.sleep(0.1)


@pytest.mark.parametrize("answer", [silent, dripping])
def test_a_host_that_does_not_answer_is_left_alone(
    answer: Any, server: Web, impatient: None
) -> None:
    server.answers["/a"] = answer
    started = time.monotonic()
    for attempt in range(20):
        with pytest.raises(TimeoutError) as raised:
            open_storage(f"{server.url}/a?sig=SECRET{attempt}").read()
        assert "SECRET" not in str(raised.value) and server.host in str(raised.value)
    assert "is asked no more" in str(raised.value)
    assert len(server.asked) == 3 and time.monotonic() - started < 3


@pytest.mark.parametrize("answer", [silent, dripping, hanging_up])
def test_a_host_that_answered_before_counts_as_gone(
    answer: Any, server: Web, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "VAIN_BEFORE_GONE", 4)
    server.answers |= {"/a": b"content", "/b": answer}
    first, second = (open_storage(f"{server.url}/{name}?sig=SECRET") for name in "ab")
    assert first.read() == b"content"
    for _ in range(3):
        with pytest.raises(OSError) as raised:
            second.read()
        assert not isinstance(raised.value, StorageGoneError)
    assert first.read() == b"content"  # and all is forgotten
    for attempt in range(4):
        with pytest.raises(StorageGoneError if attempt == 3 else OSError) as raised:
            second.read()
    assert server.host in str(raised.value) and "SECRET" not in str(raised.value)
    assert "run the same command again" in str(raised.value)
    assert first.read() == b"content"  # it is asked again


def test_a_stall_of_questions_asked_side_by_side_is_no_end(server: Web, impatient: None) -> None:
    server.answers |= {"/a": b"content", "/b": silent}
    stalled = open_storage(f"{server.url}/b")
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(stalled.version) for _ in range(16)]
        assert all(isinstance(question.exception(), OSError) for question in asked)
    assert open_storage(f"{server.url}/a").read() == b"content"


def test_a_host_that_answered_another_process_is_no_dead_one(
    server: Web, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "VAIN_BEFORE_GONE", 1)
    server.answers["/b"] = silent
    web.remember_answered([server.host])
    with pytest.raises(StorageGoneError):
        open_storage(f"{server.url}/b").read()


def test_a_busy_server_is_waited_for(server: Web, caplog: pytest.LogCaptureFixture) -> None:
    storage = open_storage(f"{server.url}/a?sig=SECRET", patience=20)
    for work in (storage.read, storage.version, lambda: storage.open().read()):
        server.answers["/a"] = busy_for(2, 503, b"content")
        work()
    server.answers["/a"] = busy_for(1, 429, b"content", "1")
    started = time.monotonic()
    assert storage.read() == b"content"
    assert 1 <= time.monotonic() - started < 5
    said = f"{server.host} is busy (HTTP 503 Service Unavailable); waiting for it, up to 20 seconds"
    assert caplog.messages == [said]  # once


@pytest.mark.parametrize("wish", ["soon", "3600", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_server_that_stays_busy_is_left_alone(wish: str, server: Web) -> None:
    server.answers |= {"/a": busy_for(10**6, 429, b"", wish), "/b": b"content"}
    started = time.monotonic()
    with pytest.raises(ServerBusyError, match=rf"{server.host} is busy: it answers HTTP 429") as e:
        open_storage(f"{server.url}/a?sig=SECRET", patience=0.3).read()
    assert time.monotonic() - started < 0.4
    assert "SECRET" not in str(e.value)
    assert ("asks to wait" in str(e.value)) == (wish != "soon")
    assert pickle.loads(pickle.dumps(e.value)).status == 429
    asked = len(server.asked)
    with pytest.raises(ServerBusyError):
        open_storage(f"{server.url}/b", patience=0.3).read()
    assert len(server.asked) == asked
    time.sleep(0.3)
    assert open_storage(f"{server.url}/b", patience=0.3).read() == b"content"


def test_a_large_file_may_take_longer(
    server: Web, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/a"] = dripping  # 20 bytes in 2 seconds
    storage = open_storage(f"{server.url}/a")
    with pytest.raises(TimeoutError, match=f"{server.host} is too slow.*more than 0.4.* s"):
        storage.read(limit=20)
    monkeypatch.setattr(web, "SLOWEST_BYTES", 5)
    assert storage.read(limit=20) == b"a" * 20
    server.answers["/b"] = silent
    with pytest.raises(OSError, match=f"{server.host} did not answer for 0.2 seconds"):
        open_storage(f"{server.url}/b").read(limit=20)


def test_a_version_comes_with_the_content(server: Web) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["Accept-Encoding"] == "identity"
        handler.send_response(200)
        for header in (("ETag", '"one"'), ("Content-Length", "7")):
            handler.send_header(*header)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(b"content")

    server.answers |= {"/a": answer, "/b": b"content"}
    storage = open_storage(f"{server.url}/a")
    content, version = storage.read_with_version()
    assert content == b"content" and len(server.asked) == 1
    assert version == storage.version() and "one" in version
    assert open_storage(f"{server.url}/b").read_with_version() == (b"content", "")


def test_a_dead_host_is_not_waited_for() -> None:
    with web_server() as server:
        pass
    with pytest.raises(OSError, match="Connect call failed"):
        open_storage(f"{server.url}/a").read()


def test_nothing_is_written_to_the_web(server: Web) -> None:
    storage = open_storage(f"{server.url}/a?sig=SECRET")
    for work in (
        lambda: storage.write("b", b""),
        lambda: storage.swap("b", None, b""),
        storage.check_writable,
    ):
        with pytest.raises(InputError, match=rf"{server.url}/a: nothing is written there"):
            work()
    assert not [asked for asked in server.asked if "probe" in asked[0]]


def test_links_of_a_page_are_no_files(server: Web) -> None:
    server.answers["/a"] = b'<a href="/a/b.png">b</a>'
    storage = open_storage(f"{server.url}/a?sig=SECRET")
    for work in (storage.names, storage.folders, storage.walk, storage.entries):
        with pytest.raises(InputError, match=rf"{server.url}/a: the web has no lists of files"):
            work()
