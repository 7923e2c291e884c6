"""The command: what a person types, and the Makefile for them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.command import ended
from cluster.errors import NotPreparedError

from postgres.packages import install
from postgres.server import DEFAULT_ROOT, Server

_COMMANDS = {
    "install": "install Debian's packages; as an ordinary user, say which",
    "start": "start the server, and print the settings section of a site on it",
    "stop": "end it, keep the data",
    "kill": "SIGKILL of its postmaster",
    "status": "whether it runs; exits with 1 where it does not",
    "env": "shell exports for psql and pg_dump",
    "clean": "stop, and delete the folder",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="postgres", description="A throw-away PostgreSQL server.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in _COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--root", type=Path, default=DEFAULT_ROOT, help=f"default: {DEFAULT_ROOT}")
    return parser


def _do(command: str, root: Path) -> int:
    server = Server(root.absolute())
    if command == "install":
        sys.stdout.write(f"installed: {' '.join(install()) or 'everything was there'}\n")
    elif command == "start":
        server.start()
        sys.stdout.write(f"database: {json.dumps(server.section)}\n")
    elif command == "stop":
        server.stop()
    elif command == "kill":
        server.kill()
    elif command == "status":
        pid = server.pid()
        sys.stdout.write("down\n" if pid is None else f"up, pid {pid}, port {server.port}\n")
        return 1 if pid is None else 0
    elif command == "env":
        if not server.password_file.is_file():
            raise NotPreparedError(f"{root}: no server was started there")
        sys.stdout.write(server.exports())
    else:
        server.clean()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; see `cluster.command.ended`."""
    given = _parser().parse_args(argv)
    return ended(lambda: _do(given.command, given.root))
