"""The command ``mqi``."""

import sys


def main() -> None:
    """Run the command; Ctrl-C ends it without a word, also while it starts."""
    try:
        from mqi_dagster.cli.app import main as run

        run()
    except KeyboardInterrupt:
        # ExitCode.INTERRUPTED; importing it here could be interrupted too.
        sys.exit(130)
