"""The command ``mqi``."""

import sys


def main() -> None:
    """Run the command; Ctrl-C ends it without a word, also while it starts."""
    try:
        from mqi_dagster.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
