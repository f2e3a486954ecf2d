"""``python -m semigrid`` is the command ``semigrid``."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] == os.getcwd():
    del sys.path[0]  # the working directory: a file torch.py of the user's is no module

from semigrid.grid.commands.main import main

main()
