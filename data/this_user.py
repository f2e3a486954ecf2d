"""Who is at work, for what other people and processes are told."""

import getpass
import os


def this_user() -> str:
    """The name of the user whose process this is."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # user ids without a name, as in containers
        return f"user {os.getuid()}"
