"""What a run needs of the machine around it, checked and made before Ray starts; without Ray."""

import contextlib
import errno
import os
import re
import resource
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from semigrid.data.errors import InputError
from semigrid.data.redact import shown

# Longest wait for a cluster to answer at all, in seconds.
ANSWER_SECONDS = 10.0
# Longest path of a Unix socket, in bytes, and the longest that Ray makes of a folder's.
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.9"
# Characters of paths that Ray's command lines survive.
PLAIN = re.compile(r"[A-Za-z0-9/._-]+", re.ASCII)
# Where folders have short names, for those whose TMPDIR has not.
SHORT = "/tmp"
# Free space for Ray's logs and for what a run keeps for itself, in bytes.
FREE_BYTES = 64 * 2**20
# What a client of gRPC says first (RFC 9113, section 3.4), and the type of a server's first frame.
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
HTTP2_SETTINGS = b"\4"
# Files and sockets that each of Ray's processes may have open, on a machine of many cores, too.
OPEN_FILES = 1024
TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
# Permissions of a shared token that let others than its group read it, or replace it.
OPEN_TO_OTHERS = 0o026


def check_surroundings(say: Callable[[str], None]) -> None:
    """Raises ``InputError`` for a machine, an address or a token that Ray cannot use.

    Args:
        say: receives a message about a token that others can read.
    """
    check_machine()
    check_address()
    if cluster_address() is not None or os.environ.get(TOKEN_PATH):
        check_token(say)


def check_machine() -> None:
    """Raises ``InputError`` for a limit of open files or a temporary folder of no use to Ray."""
    check_open_files()
    with scratch_folder():
        pass


def check_open_files() -> None:
    """Raises this process's limit of open files, or ``InputError``: Ray would wait without end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise InputError(
            f"ulimit -n: this process may open {hard:,} files, and Ray needs {OPEN_FILES:,}; let "
            "an administrator raise the limit, or start a shell where "
            f"`ulimit -n {OPEN_FILES}` works"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))


def cluster_address() -> str | None:
    """The cluster to join, from ``RAY_ADDRESS``; None to run on this machine alone."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def check_address() -> None:
    """Raises ``InputError`` if no cluster is at ``RAY_ADDRESS``."""
    address = cluster_address()
    if address in (None, "auto"):
        return
    host, _, port = address.rpartition(":")
    valid = re.fullmatch(r"\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+", host)
    if not valid or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        what, job = "not HOST:PORT", ""
        if "://" in address:
            what = "the address of a dashboard, the job API or Ray Client"
        if address.startswith("http"):
            job = f"; as a job: semigrid submit --address {shown(address)}"
        raise InputError(
            f"RAY_ADDRESS={shown(address)}: {what}; give HOST:PORT, which `ray start --head` "
            "printed (often port 6379), or unset RAY_ADDRESS to run on this machine" + job
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as head:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return  # a server with TLS resets what begins in plain text
            head.settimeout(ANSWER_SECONDS)
            head.sendall(HTTP2_HELLO)
            with head.makefile("rb") as reply:
                answer = reply.read(4)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); give the address that "
            "`ray start --head` printed, or unset RAY_ADDRESS to run on this machine"
        ) from error
    if answer[3:] != HTTP2_SETTINGS:
        raise InputError(
            f"RAY_ADDRESS={address}: what answers there is no Ray cluster; give the address that "
            "`ray start --head` printed (often port 6379, not the dashboard's 8265)"
        )


def check_token(say: Callable[[str], None]) -> None:
    """Makes ``~/.ray/auth_token`` private, if it is there; who has it can run anything there.

    A token that the user has put elsewhere may be shared with a group: it stays as it is, and what
    is open to others is said. Raises ``InputError`` where ``RAY_AUTH_TOKEN_PATH`` names no file, or
    another user owns ``~/.ray/auth_token``.
    """
    if os.environ.get(TOKEN):
        return
    given = os.environ.get(TOKEN_PATH)
    path = Path(given).expanduser() if given else Path.home() / ".ray" / "auth_token"
    if given and not path.is_file():
        raise InputError(f"{TOKEN_PATH}={given}: there is no such file; give the cluster's token")
    try:
        facts = path.stat()
    except OSError:
        return
    mode, own = stat.S_IMODE(facts.st_mode), os.geteuid()
    if given:
        if mode & OPEN_TO_OTHERS:
            say(
                f"{TOKEN_PATH}={given}: other users can read or replace this token (mode "
                f"{mode:04o}), and run anything on the cluster with it; chmod 640 closes it"
            )
    elif own and facts.st_uid not in (own, 0):
        raise InputError(
            f"{path}: it belongs to another user, who could replace the cluster's token; let "
            f"{TOKEN_PATH} name a file of your own"
        )
    elif mode & 0o077:
        with contextlib.suppress(OSError):  # root's, or mounted read-only
            path.chmod(mode & ~0o077)


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """The path of a new folder in TMPDIR that no other user can open, removed after the block.

    Where other users could replace what is in TMPDIR, it is in ``/tmp``. The path is short and
    plain enough for Ray and its sockets. Where TMPDIR's is not, it leads there by a link in a
    private folder of ``/tmp``. ``RAY_TMPDIR`` stands for TMPDIR where it is set. Raises
    ``InputError`` where the folder is of no use.
    """
    names = [name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    name = names[0] if names else "TMPDIR"
    where = os.environ[name] if names else ""
    with contextlib.ExitStack() as folders:
        try:
            # Python itself would take another folder for a TMPDIR that is of no use, silently
            where = where or tempfile.gettempdir()
            folder = _private(folders, os.path.abspath(where))
            if (free := shutil.disk_usage(folder).free) < FREE_BYTES:
                raise OSError(errno.ENOSPC, f"{free / 2**20:.0f} MB are free")
        except OSError as error:
            raise InputError(
                f"{name}={where}: of no use for temporary files: {error}; let {name} be a folder "
                f"that you can write, with {FREE_BYTES / 2**20:.0f} MB free"
            ) from error
        if len(os.fsencode(folder + RAY_SOCKET)) > SOCKET_BYTES or not PLAIN.fullmatch(folder):
            try:
                link = os.path.join(_private(folders, SHORT), "t")
                os.symlink(folder, link)
            except OSError as error:
                longest = SOCKET_BYTES - len(RAY_SOCKET) - len("/semigrid-12345678")
                raise InputError(
                    f"{name}={where}: Ray's sockets need a path of at most {longest} plain "
                    f"characters, and {SHORT} cannot hold them instead: {error}; set {name} to a "
                    "shorter path"
                ) from error
            folder = link
        yield folder


def _private(folders: contextlib.ExitStack, where: str) -> str:
    """A new folder there, or in ``/tmp`` where other users could replace it."""
    if opened := _open_to_all(where):
        if _open_to_all(SHORT):
            raise PermissionError(
                f"all users can replace what is in {opened}; chmod o-w or chmod +t closes it"
            )
        where = SHORT
    # by mkdtemp, 0700 whatever the umask is; what still runs in it may write while it is removed
    made = tempfile.TemporaryDirectory(prefix="semigrid-", dir=where, ignore_cleanup_errors=True)
    return folders.enter_context(made)


def _open_to_all(where: str) -> Path | None:
    """The folder on the way there whose content every user can replace, if there is one."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return None  # a pod's folders are open to all, of whom there is one; /tmp is, too
    for path in (Path(where), *Path(where).parents):
        mode = path.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return path
    return None


@contextlib.contextmanager
def ray_inside(folder: str) -> Iterator[None]:
    """Makes a cluster that starts in the block keep its files and its token in a private folder.

    Ray itself would put the token into ``~/.ray``, where every user may read it. A token that the
    user has set stays.
    """
    # Ray wants tokens on its own, unless this variable says something else
    settings: dict[str, str | None] = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": None}
    if not (os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH)):
        path = os.path.join(folder, "token")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # that of a driver that died
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(path, flags, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        settings[TOKEN_PATH] = path
    before = {name: os.environ.get(name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, str | None]) -> None:
    """Sets environment variables, or removes them."""
    for name, value in settings.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
