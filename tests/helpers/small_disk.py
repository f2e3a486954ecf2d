"""A file system of a few megabytes, mounted where the kernel lets a user do so."""

import shutil
import subprocess

MOUNT = 'mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@"'


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0
