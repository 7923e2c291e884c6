"""The command ``mqi``."""

from mqi_dagster.cli.app import main

__all__ = ["main"]
