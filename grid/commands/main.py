"""Entry point of the ``semigrid`` command.

It imports nothing at first: Ctrl-C may come before the rest is imported, and prints no traceback.
"""

import os
import sys


def main() -> None:
    """Runs the command line of this process, and ends it."""
    try:
        import signal
        import threading

        # until ``Interrupts`` takes over, an interrupt ends this process at once, even
        # where a shell has a background job ignore it: scripts stop a run by `kill -INT`
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        os._exit(130)
    from semigrid.grid.commands.app import run_app
    from semigrid.grid.commands.console import exit_code
    from semigrid.grid.commands.interrupts import Interrupts
    from semigrid.grid.commands.unexpected import say_thread_ended, say_unexpected

    interrupts = Interrupts()

    def run() -> int:
        interrupts.take()
        return run_app()

    threading.excepthook = say_thread_ended
    try:
        sys.exit(exit_code(run))
    except Exception as error:
        sys.exit(say_unexpected(error))
    finally:
        interrupts.leave()


if __name__ == "__main__":
    main()
