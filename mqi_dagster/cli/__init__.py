"""The command ``mqi``."""

import gc
import sys


def main() -> None:
    """Run the command; Ctrl-C ends it without a word, also while it starts."""
    # Modules are made of objects that are never garbage: to look for some is a tenth of what a start costs.
    gc.set_threshold(50_000)
    try:
        from mqi_dagster.cli.app import main as run

        run()
    except KeyboardInterrupt:
        # ExitCode.INTERRUPTED; importing it here could be interrupted too.
        sys.exit(130)
