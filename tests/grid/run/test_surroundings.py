import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from semigrid.data.errors import InputError
from semigrid.grid.run import surroundings
from semigrid.grid.run.surroundings import (
    RAY_SOCKET,
    SOCKET_BYTES,
    check_address,
    check_surroundings,
    cluster_address,
    ray_inside,
    scratch_folder,
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.mark.parametrize("address", ["", "local", " local "])
def test_without_an_address_it_runs_here(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    check_address()
    assert cluster_address() is None


@pytest.mark.parametrize(
    "address",
    [
        *("http://127.0.0.1:8265", "https://shop.example/ray", "ray://head:10001", "redis://a:1"),
        *("head", "head:", ":6379", "head:port", "head:0", "head:65536", "head:" + "9" * 5000),
        *("a b:6379", "-\n:6379", "[::1]", "::1:6379", "head:٣", "user@head:6379", "'head:1'"),
    ],
)
def test_what_is_no_address_of_a_cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match="(?s)^RAY_ADDRESS=.*give HOST:PORT, which `ray start"):
        check_surroundings(print)


def test_the_address_of_the_job_api_is_for_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(InputError, match="job API.*submit --address http://127.0.0.1:8265"):
        check_address()


@contextlib.contextmanager
def server(answer: bytes) -> Iterator[int]:
    """The port of a server that answers the first bytes of each connection with these."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as connection:
                        connection.recv(100)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_an_address_where_ray_answers_or_something_else_or_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with server(bytes((0, 0, 18, 4, 0, 0, 0, 0, 0))) as port:  # the start of a gRPC server
        monkeypatch.setenv("RAY_ADDRESS", f"localhost:{port}")
        check_address()
    for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"-ERR unknown command"):
        with server(answer) as port:
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            with pytest.raises(InputError, match=f"{port}: what answers there is no Ray cluster"):
                check_address()
    with pytest.raises(InputError, match=f"RAY_ADDRESS=127.0.0.1:{port}: no Ray cluster answers"):
        check_address()
    with monkeypatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as silent:
        patch.setenv("RAY_USE_TLS", "1")  # nothing is sent: plain text would be refused
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        check_address()
        with silent.accept()[0] as connection:
            assert connection.recv(1) == b""
    monkeypatch.setattr(surroundings, "ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(InputError, match="no Ray cluster answers there .timed out"):
            check_address()


def test_a_clusters_token_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_surroundings(print)  # none is there
    token = tmp_path / "home/.ray/auth_token"
    token.parent.mkdir()
    token.parent.chmod(0o777)
    check_surroundings(print)
    token.write_text("secret")
    token.chmod(0o644)
    check_surroundings(print)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o777
    if not os.geteuid():
        os.chown(token, 65534, -1)
        check_surroundings(print)  # root may look at everybody's
        monkeypatch.setattr(os, "geteuid", lambda: 65533)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: token.stat().st_uid + 1)
    with pytest.raises(InputError, match=f"{token}: it belongs to another user"):
        check_surroundings(print)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH=.*there is no such file"):
        check_surroundings(print)


@pytest.mark.parametrize(("mode", "words"), [(0o640, ""), (0o644, "mode 0644"), (0o660, "0660")])
def test_a_token_that_is_shared_stays_as_it_is(
    mode: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "team/token"
    token.parent.mkdir()
    token.parent.chmod(0o2775)
    token.write_text("secret")
    token.chmod(mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setattr(os, "geteuid", lambda: token.stat().st_uid + 1)  # an administrator's
    said: list[str] = []
    check_surroundings(said.append)
    assert stat.S_IMODE(token.stat().st_mode) == mode
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o2775
    assert len(said) == bool(words) and words in "".join(said)


@pytest.mark.parametrize(
    "name", ["t", "t" * 100, "slurm/1355700/people/tmp.t0016-job", "a b", "ü", "$(x);'\"", "."]
)
def test_a_temporary_folder_is_private_and_short_and_in_tmpdir(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    before = sorted(folder.iterdir())
    umask = os.umask(0)
    try:
        with scratch_folder() as scratch:
            assert len(scratch + RAY_SOCKET) <= SOCKET_BYTES and " " not in scratch
            assert Path(scratch).resolve().parent == folder.resolve()
            assert stat.S_IMODE(os.stat(scratch).st_mode) == 0o700
            assert stat.S_IMODE(os.stat(os.path.dirname(scratch)).st_mode) & 0o007 in (0, 7)
            Path(scratch, "file").write_text("")
            with socket.socket(socket.AF_UNIX) as server, ray_inside(scratch):
                server.bind(os.environ["RAY_TMPDIR"] + "/" + "s" * (len(RAY_SOCKET) - 1))
    finally:
        os.umask(umask)
    assert sorted(folder.iterdir()) == before
    assert not os.path.lexists(scratch)


def test_a_relative_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").mkdir()
    monkeypatch.setenv("TMPDIR", "t")
    with scratch_folder() as scratch:
        assert Path(scratch).is_absolute() and os.path.samefile(Path(scratch).resolve().parent, "t")


@pytest.mark.parametrize("name", ["open", "open/below"])
def test_a_tmpdir_that_others_can_replace_is_not_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short").mkdir()
    (tmp_path / "open/below").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setattr(surroundings, "SHORT", str(tmp_path / "short"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / name))
    with scratch_folder() as scratch:
        assert Path(scratch).resolve().parent == tmp_path / "short"
        assert stat.S_IMODE(os.stat(scratch).st_mode) == 0o700
    assert not os.listdir(tmp_path / "short") and os.listdir(tmp_path / "open") == ["below"]


def test_a_tmpdir_of_no_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open/below").mkdir(mode=0o700)
    monkeypatch.setattr(surroundings, "SHORT", str(tmp_path / "open"))
    for name, words in (
        ("missing", "No such file"),
        ("file", "Not a directory"),
        ("open", "all users can replace what is in"),
        ("open/below", f"all users can replace what is in {tmp_path}/open;"),
    ):
        for variable in ("TMPDIR", "RAY_TMPDIR"):
            with monkeypatch.context() as environment:
                environment.setenv(variable, str(tmp_path / name))
                with pytest.raises(InputError, match=f"^{variable}={tmp_path}/{name}: .*{words}"):
                    check_surroundings(print)
    with monkeypatch.context() as environment:
        environment.setenv("TMPDIR", str(tmp_path / "open"))
        environment.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        check_surroundings(print)  # nobody else is there
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with monkeypatch.context() as patch:
        usage = namedtuple("usage", "total used free")
        patch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
        with pytest.raises(InputError, match=f"^TMPDIR={tmp_path}: .* 1 MB are free"):
            check_surroundings(print)
    monkeypatch.setattr(surroundings, "SHORT", str(tmp_path / "missing"))
    with pytest.raises(InputError, match=f"^TMPDIR={tmp_path}: Ray's sockets need a path of at m"):
        check_surroundings(print)


def test_a_cluster_of_our_own_has_a_token_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    tokens = []
    for _ in range(2):  # a driver that died leaves its token
        with ray_inside(str(tmp_path)):
            token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
            assert token.parent == tmp_path == Path(os.environ["RAY_TMPDIR"])
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
            tokens.append(token.read_text())
        assert not {"RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"} & os.environ.keys()
    assert len(set(tokens)) == 2 and all(len(token) == 64 for token in tokens)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or a typing error: nobody needs that here
    with ray_inside(str(tmp_path)):
        assert not {"RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"} & os.environ.keys()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.parametrize(("hard", "right"), [(256, False), (2048, True)])
def test_few_open_files_are_raised_or_refused(hard: int, right: bool) -> None:
    program = f"""
import resource
from semigrid.data.errors import InputError
from semigrid.grid.run.surroundings import check_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))
try:
    check_open_files()
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("1024 2048" if right else "ulimit -n: this process may open 256")
    assert right or "needs 1,024" in done.stdout
