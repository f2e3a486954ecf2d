"""``python -m semigrid`` is the command ``semigrid``."""

from semigrid.grid.commands.main import main

main()
