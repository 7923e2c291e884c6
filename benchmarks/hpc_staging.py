"""Files of a beam to a cluster and back: the platform's way, a `put` or `get` each, a connection each."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import paramiko

from benchmarks.hpc_figures import Figure, show
from benchmarks.hpc_site import Site
from mqi_dagster.files import sha256_file
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.files import get_resume
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.shell import require, run
from mqi_dagster.hpc.staging import stage

_CSV_BYTES = 30_000
_BIG_NAME = "input/ct.raw"


class Transfers:
    """The same files, moved in several ways.

    Args:
        site: Where to.
        csvs: Number of small files.
        big_bytes: Size of the big one.
    """

    def __init__(self, site: Site, csvs: int, big_bytes: int) -> None:
        self._site = site
        self._number = 0
        self._big_bytes = big_bytes
        self.small = {f"input/{index:02d}_150.00MeV.csv": self._csv(index) for index in range(1, csvs + 1)}
        self.all = {**self.small, _BIG_NAME: self._big(big_bytes)}
        self._hashes = {name: sha256_file(path) for name, path in self.all.items()}

    def _csv(self, index: int) -> Path:
        rng = random.Random(index)
        path = self._site.local / f"{index}.csv"
        with path.open("w", newline="") as stream:
            row = 0
            while stream.tell() < _CSV_BYTES:
                row += 1
                place = f"{rng.uniform(-150, 150):.6f},{rng.uniform(-200, 200):.6f}"
                stream.write(f"{row * 0.06:.2f},{place},{rng.randrange(4000, 6000)}\r\n")
        return path

    def _big(self, size: int) -> Path:
        path, left = self._site.local / "big.raw", size
        with path.open("wb") as stream:
            while left:
                left -= stream.write(os.urandom(min(left, 1 << 20)))
        return path

    # One way each; every call into a folder of its own

    def stage(self, files: Mapping[str, Path], connection: Connection | None = None) -> None:
        """The platform's way up."""
        folder = self._site.folder("b01", self._number)
        made = stage(connection or self._site.connection, folder, files, big_bytes=self._big_bytes)
        assert made

    def stage_anew(self, files: Mapping[str, Path]) -> None:
        """The same, with the opening of a connection."""
        connection = Connection(self._site.host)
        self.stage(files, connection)
        connection.drop()

    def put_each(self, files: Mapping[str, Path], client: paramiko.SFTPClient) -> None:
        """One `put` a file on a session that stands."""
        for name, path in files.items():
            client.put(str(path), str(self._folder.path / name))

    def put_connecting(self, files: Mapping[str, Path]) -> None:
        """One connection a file."""
        for name, path in files.items():
            with self._site.new_client() as ssh, ssh.open_sftp() as client:
                client.put(str(path), str(self._folder.path / name))

    def fetch(self, names: Iterable[str]) -> None:
        """The platform's way down."""
        for name in names:
            size = self.all[name].stat().st_size
            source = str(self._folder.path / name)
            get_resume(self._site.connection, source, self._down / name, self._hashes[name], size)

    def get_each(self, names: Iterable[str], client: paramiko.SFTPClient) -> None:
        """One `get` a file on a session that stands."""
        for name in names:
            client.get(str(self._folder.path / name), str(self._down / name))

    def get_connecting(self, names: Iterable[str]) -> None:
        """One connection a file."""
        for name in names:
            with self._site.new_client() as ssh, ssh.open_sftp() as client:
                client.get(str(self._folder.path / name), str(self._down / name))

    # Around each

    @property
    def _folder(self) -> JobFolder:
        return self._site.folder("b01", self._number)

    @property
    def _down(self) -> Path:
        return self._site.local / "down"

    def prepare(self, *, made: bool) -> None:
        """A new folder on the cluster, made where the way itself does not; nothing waits for the disk."""
        self._number += 1
        path = str(self._folder.path)
        if made:
            require(run(self._site.connection, ["mkdir", "-p", f"{path}/input"]), "mkdir")
        os.sync()

    def prepare_down(self) -> None:
        """An empty folder here; nothing waits for the disk."""
        (self._down / "input").mkdir(parents=True)
        os.sync()

    def check_up(self, files: Mapping[str, Path]) -> None:
        """Every file is there and equal; then it goes."""
        here = Path(self._folder.path)
        for name in files:
            assert sha256_file(here / name) == self._hashes[name], f"{name} did not arrive"
        shutil.rmtree(here)

    def check_down(self, names: Iterable[str]) -> None:
        """Every file is here and equal; then it goes."""
        for name in names:
            assert sha256_file(self._down / name) == self._hashes[name], f"{name} did not arrive"
        shutil.rmtree(self._down)


def measure_staging(site: Site, csvs: int, big_bytes: int, repetitions: int) -> tuple[Figure, Figure]:
    """Measure and print.

    Returns:
        The small files upwards with a connection each, and the platform's way.
    """
    transfers = Transfers(site, csvs, big_bytes)
    big = f"{big_bytes / 1e6:g} MB"
    with site.new_client() as ssh, ssh.open_sftp() as client:
        ours, each = _up(transfers, transfers.small, client, repetitions, f"{csvs} CSVs up")
        _up(transfers, transfers.all, client, repetitions, f"{csvs} CSVs + {big} up")
        _down(transfers, list(transfers.all), client, repetitions, f"{csvs} CSVs + {big} down")
        _down(transfers, [_BIG_NAME], client, repetitions, f"{big} down (a raw dose)")
    return each, ours


def _up(
    transfers: Transfers,
    files: Mapping[str, Path],
    client: paramiko.SFTPClient,
    repetitions: int,
    title: str,
) -> tuple[Figure, Figure]:
    ours = Figure("ours, verified and on disk")
    anew = Figure("ours, opening its connection too")
    one = Figure("a put per file, one connection", note="not verified, not on disk")
    each = Figure("a new connection per file", note="not verified, not on disk")
    for _ in range(repetitions):
        transfers.prepare(made=False)
        ours.time(transfers.stage, files)
        transfers.check_up(files)
        transfers.prepare(made=False)
        anew.time(transfers.stage_anew, files)
        transfers.check_up(files)
        transfers.prepare(made=True)
        one.time(transfers.put_each, files, client)
        transfers.check_up(files)
        transfers.prepare(made=True)
        each.time(transfers.put_connecting, files)
        transfers.check_up(files)
    show(title, [ours, anew, one, each], compared_with=ours)
    return ours, each


def _down(
    transfers: Transfers,
    names: Sequence[str],
    client: paramiko.SFTPClient,
    repetitions: int,
    title: str,
) -> None:
    ours = Figure("ours, verified and on disk")
    one = Figure("a get per file, one connection", note="not verified, not on disk")
    each = Figure("a new connection per file", note="not verified, not on disk")
    transfers.prepare(made=False)
    transfers.stage(transfers.all)
    for _ in range(repetitions):
        for figure, way in (
            (ours, lambda: transfers.fetch(names)),
            (one, lambda: transfers.get_each(names, client)),
            (each, lambda: transfers.get_connecting(names)),
        ):
            transfers.prepare_down()
            figure.time(way)
            transfers.check_down(names)
    show(title, [ours, one, each], compared_with=ours)
    transfers.check_up(transfers.all)
