"""A command under strace: which programs it started, whom it asked, what it wrote."""

import os
import re
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = (
    *("execve", "execveat", "connect", "open", "openat", "openat2", "creat", "truncate"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("link", "linkat", "symlink", "symlinkat", "chmod", "fchmodat"),
)
_LINE = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_AT = re.compile(r"(?:AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>")
_HOST = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
_PORT = re.compile(r"sin6?_port=htons\((\d+)\)")


@dataclass
class Traced:
    """What a command and all that it started did.

    ``programs`` are paths, ``asked`` pairs of host and port, ``written`` absolute paths of files
    that were opened to write, made, moved or deleted.
    """

    code: int
    output: str
    programs: set[str] = field(default_factory=set)
    asked: set[tuple[str, int]] = field(default_factory=set)
    written: set[str] = field(default_factory=set)

    def outside(self, *folders: Path) -> set[str]:
        """What was written in none of the folders, nor to a device or to Linux itself."""
        inside = (*(f"{folder}/" for folder in folders), "/dev/", "/proc/")
        return {path for path in self.written if not f"{path}/".startswith(inside)}


def trace(
    command: list[str], cwd: Path, environment: dict[str, str], timeout: float, log: Path
) -> Traced:
    """Runs a command; raises ``subprocess.TimeoutExpired`` when it takes longer."""
    strace = ["strace", "-f", "-y", "-qq", "-s", "4096", "--seccomp-bpf", "-o", str(log)]
    done = subprocess.run(
        [*strace, "-e", f"trace={','.join(_CALLS)}", *command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        text=True,
        errors="replace",
    )
    traced = Traced(done.returncode, done.stdout)
    with open(log, errors="surrogateescape") as lines:
        for line in lines:
            if match := _LINE.match(line):
                _note(traced, *match.groups())
    return traced


def _note(traced: Traced, call: str, args: str, result: str) -> None:
    texts = _TEXT.findall(args)
    if call in ("execve", "execveat"):
        if result == "0":
            traced.programs.add(texts[0])
    elif call == "connect":
        if (host := _HOST.search(args)) and (port := _PORT.search(args)):
            traced.asked.add((host[1] or host[2], int(port[1])))
    elif int(result) >= 0 and (not call.startswith("open") or _writes(args)):
        folders = _AT.findall(args)
        for number, text in enumerate(texts if call not in ("symlink", "symlinkat") else texts[1:]):
            folder = folders[min(number, len(folders) - 1)] if folders else "/"
            traced.written.add(os.path.normpath(os.path.join(folder, text)))


def _writes(args: str) -> bool:
    return any(flag in args for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"))


def own_hosts() -> set[str]:
    """The addresses of this machine."""
    found = {"127.0.0.1", "::1", "0.0.0.0"}
    for _, _, _, _, where in socket.getaddrinfo(socket.gethostname(), None):
        found.add(str(where[0]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the way
            found.add(probe.getsockname()[0])
        except OSError:
            pass
    return found
