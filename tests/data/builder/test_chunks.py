"""Processes that clean images: what they run, and how a build goes on or ends when they die."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.shop import SETTINGS, shop, tile

from semigrid.data.builder import chunks as builder_chunks
from semigrid.data.builder.chunks import chunks_of
from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.place import BUILDING
from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.sources.files import folder_items
from semigrid.data.sources.items import Inside, Item
from semigrid.data.sources.patterns import drawing
from semigrid.data.sources.versions import versions_of
from semigrid.data.storage import open_storage, web


@dataclass(frozen=True)
class Deadly(Inside):
    """An image that kills the first process that reads it, or each."""

    trace: str
    always: bool = False

    def read(self, uri: str) -> bytes:
        if self.always or not Path(self.trace).exists():
            Path(self.trace).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return tile(1)


def test_a_build_outlives_any_number_of_deaths_that_do_not_stop_it(tmp_path: Path) -> None:
    items = folder_items(str(shop(tmp_path / "shop")))
    for number in range(10, 50, 10):  # in a chunk each
        items[number] = replace(items[number], inside=Deadly(str(tmp_path / f"trace{number}")))
    build_dataset(str(tmp_path / "set"), items, SETTINGS, processes=2)
    assert len(list(tmp_path.glob("trace*"))) == 4


def test_deaths_that_stop_a_build_are_said(tmp_path: Path) -> None:
    items = folder_items(str(shop(tmp_path / "shop")))
    items[50] = replace(items[50], inside=Deadly(str(tmp_path / "trace"), always=True))
    with pytest.raises(InputError, match="lack of memory.*give fewer --processes"):
        build_dataset(str(tmp_path / "set"), items, SETTINGS, processes=2)
    kept = list((tmp_path / "set" / BUILDING).glob("*/chunk-*.parquet"))
    assert len(kept) >= 50 // SETTINGS.chunk_images


def test_chunks_of_another_version_of_made_images_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item("0", "builtin://patterns", inside=drawing.GeneratedImage(0, 0, 16))]
    first = chunks_of(open_storage(tmp_path), items, SETTINGS)[0].folder
    monkeypatch.setattr(drawing, "VERSION", drawing.VERSION + 1)
    assert chunks_of(open_storage(tmp_path), items, SETTINGS)[0].folder != first


def killed(done: int, total: int) -> None:
    if done == total:
        raise KeyboardInterrupt


def twice(folder: Path, change: Callable[[Path], object], **settings: Any) -> set[str]:
    """Chunks that a second build cleans, after one that ended before its dataset was written."""
    source = shop(folder / "shop")
    request = SETTINGS.model_copy(update={"chunk_images": 10, "bucket_images": 60})
    items = folder_items(str(source))
    with pytest.raises(KeyboardInterrupt):
        build_dataset(str(folder / "set"), items, request, progress=killed)
    chunks = folder / "set" / BUILDING
    before = {path: path.stat().st_mtime_ns for path in chunks.glob("*/chunk-*")}
    change(source)
    after: dict[Path, int] = {}

    def look(done: int, total: int) -> None:
        after.update({p: p.stat().st_mtime_ns for p in chunks.glob("*/chunk-*")})

    request = request.model_copy(update=settings)
    built, _ = build_dataset(str(folder / "set"), items, request, progress=look)
    contents = {
        image_id: image
        for split in ("train", "val", "test")
        for table in [built.read(split)]
        for image_id, image in zip(table.ids, table.images, strict=True)
    }
    if not settings:
        assert contents == {item.image_id: Path(item.uri).read_bytes() for item in items}
    return {path.name.split("-")[1] for path, time in after.items() if before.get(path) != time}


def replaced(source: Path) -> None:
    (source / "dots" / "001.png").write_bytes(tile(12345))


def replaced_with_the_same_time_and_size(source: Path) -> None:
    path = source / "dots" / "001.png"
    before, content = path.stat(), tile(12345)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_size == before.st_size


def moved_here(source: Path) -> None:
    other = source.parent / "other.png"
    other.write_bytes(tile(12345))
    other.replace(source / "dots" / "001.png")


def unchanged(source: Path) -> None:
    pass


@pytest.mark.parametrize(
    "change",
    [unchanged, replaced, replaced_with_the_same_time_and_size, moved_here],
    ids=lambda c: c.__name__,
)
def test_a_build_goes_on_with_the_files_that_are_there_now(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    assert twice(tmp_path, change) == (set() if change is unchanged else {"000000"})


def test_chunks_of_other_settings_are_not_used(tmp_path: Path) -> None:
    assert len(twice(tmp_path, unchanged, shorter_side=4)) == 6


@pytest.mark.parametrize("away", ["moved", "locked"])
def test_what_could_not_be_read_is_read_again(
    tmp_path: Path, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder_chunks, "READ_ATTEMPTS", 1)
    source = shop(tmp_path / "shop")
    items = folder_items(str(source))
    for number, path in enumerate(sorted((source / "plain").iterdir())):
        if away == "moved":
            path.rename(tmp_path / f"{number}.png")
        else:  # not a file: reading fails, and it is nobody's fault
            path.rename(tmp_path / f"{number}.png")
            path.mkdir()
    with pytest.raises(InputError, match="none of 30 labelled images of the class 'plain'"):
        build_dataset(str(tmp_path / "set"), items, SETTINGS)
    for number, item in enumerate(item for item in items if item.label == "plain"):
        if away == "locked":
            Path(item.uri).rmdir()
        (tmp_path / f"{number}.png").rename(item.uri)
    _, report = build_dataset(str(tmp_path / "set"), items, SETTINGS)
    assert (report["kept"], report["quarantined"]) == (60, {})


def test_what_was_read_beside_it_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shop(tmp_path / "shop")
    items = folder_items(str(source))
    gone, replaced = Path(items[0].uri), Path(items[1].uri)
    gone.rename(tmp_path / "gone.png")
    with pytest.raises(KeyboardInterrupt):
        build_dataset(str(tmp_path / "set"), items, SETTINGS, progress=killed)
    replaced.write_bytes(tile(12345))
    (tmp_path / "gone.png").rename(gone)
    read, before = [], Item.read

    def reading(item: Item) -> bytes:
        read.append(item.image_id)
        return before(item)

    monkeypatch.setattr(Item, "read", reading)
    built, report = build_dataset(str(tmp_path / "set"), items, SETTINGS)
    assert read == [items[0].image_id, items[1].image_id]
    assert report["kept"] == 60
    contents = built.images("train", {i.image_id for i in items}) | built.images("val", set())
    assert all(content == Path(source, name).read_bytes() for name, content in contents.items())


def test_chunks_of_a_bucket_are_known_by_its_versions(tmp_path: Path) -> None:
    where = open_storage("memory://versions/photos")
    for number in range(60):
        where.write(f"{'ab'[number % 2]}/{number:03d}.png", tile(number))
    items = folder_items(where.uri)
    chunks = chunks_of(open_storage(tmp_path), items, SETTINGS)
    again = chunks_of(open_storage(tmp_path), items, SETTINGS)
    assert [chunk.versions for chunk in chunks] == [chunk.versions for chunk in again]
    assert not any(None in chunk.versions for chunk in chunks)
    where.write("a/000.png", tile(12345))
    now = chunks_of(open_storage(tmp_path), items, SETTINGS)
    changed = [n.number for n, c in zip(now, chunks, strict=True) if n.versions != c.versions]
    assert changed == [0]


class Server(ThreadingHTTPServer):
    """Serves one content at any address, with a validator or without."""

    content_of: Callable[["Handler"], bytes] = staticmethod(lambda handler: b"")
    validator: str | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str]] = []
        self.away = False
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.server.asked.append((self.command, self.path))
        if self.server.away:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content_of(self))))
        if self.server.validator is not None:
            self.send_header("ETag", self.server.validator)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if not self.server.away:
            self.wfile.write(self.server.content_of(self))

    def log_message(self, *_: object) -> None:
        pass


def test_images_of_the_web_are_known_by_what_their_server_says() -> None:
    with Server() as server:
        item = Item("a", f"{server.url}/a.png")
        assert versions_of([item]) == [None]  # read anew by each build
        server.validator = "one"
        first = versions_of([item])
        assert first != [None] and versions_of([item]) == first
        server.validator = "two"
        assert versions_of([item]) != first
        assert versions_of([item], web=False) == [None]
        server.shutdown()
    assert versions_of([item]) == [None]  # nobody is there, and nobody waits


def tiles(handler: Handler) -> bytes:
    return tile(int(handler.path.strip("/").partition(".")[0]))


def shop_of(server: Server) -> list[Item]:
    server.content_of = tiles
    ids = [f"{number:03d}" for number in range(60)]
    return [Item(i, f"{server.url}/{i}.png", ("dots", "plain")[int(i) % 2]) for i in ids]


def test_the_web_is_asked_once_for_each_image_and_again_only_by_a_later_build(
    tmp_path: Path,
) -> None:
    with Server() as server:
        items, server.validator = shop_of(server), "one"
        with pytest.raises(KeyboardInterrupt):
            build_dataset(str(tmp_path / "set"), items, SETTINGS, progress=killed)
        once = [("GET", f"/{item.image_id}.png") for item in items]
        assert sorted(server.asked) == once
        server.asked.clear()
        said: list[int] = []
        _, report = build_dataset(
            str(tmp_path / "set"), items, SETTINGS, progress=lambda done, total: said.append(done)
        )
        assert {method for method, _ in server.asked} == {"HEAD"} and len(server.asked) == 60
        assert report["kept"] == 60
        assert said == sorted(said) and said[:3] == [0, 7, 14]
        server.shutdown()


@pytest.mark.parametrize("validator", ["one", None])
def test_a_server_that_is_gone_ends_a_build_that_can_go_on(
    tmp_path: Path, validator: str | None
) -> None:
    with Server() as server:
        items, server.validator = shop_of(server), validator

        def goes(done: int, total: int) -> None:
            server.away |= done >= 20

        for _ in range(2):  # also where it is away from the beginning
            with pytest.raises(StorageGoneError, match="answered before, but no more"):
                build_dataset(str(tmp_path / "set"), items, SETTINGS, progress=goes)
        assert list((tmp_path / "set" / BUILDING).glob("*/chunk-*"))
        server.away = False
        _, report = build_dataset(str(tmp_path / "set"), items, SETTINGS)
        assert (report["kept"], report["quarantined"]) == (60, {})
        server.shutdown()


def test_processes_know_the_servers_that_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_answered", {"example.org"})
    with builder_chunks._pool(1) as pool:
        assert pool.submit(web.answered_hosts).result() == {"example.org"}


# builds with two processes, which say their ids: before they begin, or while they clean
BUILD = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from dataclasses import dataclass

from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.request import BuildRequest
from semigrid.data.sources.items import Inside, Item

folder, where = pathlib.Path(sys.argv[1]), sys.argv[2]

def wait(place):
    (folder / f"{os.getpid()}.tmp").touch()
    os.rename(folder / f"{os.getpid()}.tmp", folder / f"{os.getpid()}.pid")
    time.sleep(600 if place == "reading" else 1)

@dataclass(frozen=True)
class Slow(Inside):
    number: int

    def read(self, uri):
        wait("reading")

if __name__ == "__main__":
    items = [Item(str(number), "", "ab"[number % 2], inside=Slow(number)) for number in range(20)]
    try:
        build_dataset(str(folder / "set"), items, BuildRequest(source="s", chunk_images=1),
                      processes=2)
    except KeyboardInterrupt:
        sys.exit(130)
elif where == "beginning":
    wait(where)
"""


@contextmanager
def building(folder: Path, where: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A build and the ids of its two processes; it runs in a folder with names of Python's."""
    (folder / "here").mkdir()
    for name in ("pickle", "socket", "types"):
        text = f"import os\nos.write(2, b'{name}.py was run')\nos._exit(7)\n"
        (folder / "here" / f"{name}.py").write_text(text)
    (folder / "program").mkdir()
    (folder / "program" / "build.py").write_text(BUILD)
    command = [sys.executable, str(folder / "program" / "build.py"), str(folder), where]
    build = subprocess.Popen(
        command, cwd=folder / "here", stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while len(found := list(folder.glob("*.pid"))) < 2:
            if build.poll() is not None or time.monotonic() > deadline:
                build.kill()
                pytest.fail(build.communicate()[1])
            time.sleep(0.05)
        yield build, [int(path.stem) for path in found]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(build.pid, signal.SIGKILL)
        build.communicate()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_cleaning_ends_with_its_build_and_runs_nothing_of_the_folder(
    tmp_path: Path, sent: signal.Signals
) -> None:
    with building(tmp_path, "reading") as (build, processes):
        build.send_signal(sent)
        build.wait()
        deadline = time.monotonic() + 20
        while any(map(alive, processes)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(alive, processes))


@pytest.mark.parametrize("where", ["beginning", "reading"])
def test_ctrl_c_prints_no_traceback_of_a_process(tmp_path: Path, where: str) -> None:
    with building(tmp_path, where) as (build, _):
        os.killpg(build.pid, signal.SIGINT)
        assert build.communicate(timeout=60)[1] == ""
        assert build.returncode == 130
