"""A throw-away PostgreSQL server on this machine, for tests and trials, below one folder."""

from postgres.packages import install, missing_packages
from postgres.server import Server

__all__ = ["Server", "install", "missing_packages"]
