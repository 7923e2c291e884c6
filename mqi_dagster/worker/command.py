"""``mqi-worker run`` and ``mqi-worker doctor``."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

from mqi_dagster import __version__
from mqi_dagster.errors import ConfigurationError, MqiError
from mqi_dagster.execution.locks import hold
from mqi_dagster.files import private_folder
from mqi_dagster.worker.configuration import CONFIG_VARIABLE, Configuration, read_configuration
from mqi_dagster.worker.programs import Programs
from mqi_dagster.worker.slot import Slot, Stopping
from mqi_dagster.worker.ways import way_of

_LOG = logging.getLogger("mqi-worker")
_LEAST_FREE_BYTES = 5 << 30
_BROKEN = 2
"""Exit code of a configuration that a person has to mend: a service manager need not try again."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="mqi-worker", description="Asks an mqi site for work, and does it.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words in (("run", "Work until SIGTERM."), ("doctor", "Is everything here that work needs?")):
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument(
            "--config", type=Path, default=os.environ.get(CONFIG_VARIABLE), help="The configuration (YAML)."
        )
    asked = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        path = None if asked.config is None else Path(asked.config)
        configuration = read_configuration(path, os.environ)
        sys.exit(doctor(configuration) if asked.command == "doctor" else run(configuration))
    except MqiError as error:
        sys.stderr.write(f"mqi-worker: {error.message}\n")
        sys.exit(_BROKEN)


def run(configuration: Configuration) -> int:
    """Work until a signal says otherwise; the exit code.

    The first SIGTERM or SIGINT drains as the configuration says, the second gives everything back.

    Raises:
        ConfigurationError: Something of the configuration cannot be used.
    """
    stopping, failed = Stopping(), list[BaseException]()
    # What may be put into from a signal's handler, whatever that has interrupted.
    told: SimpleQueue[str] = SimpleQueue()

    def ended(died: threading.ExceptHookArgs) -> None:
        threading.__excepthook__(died)
        failed.append(died.exc_value or SystemExit(1))
        stopping.asked.set()

    def live(slot: Slot) -> None:
        try:
            slot.run()
        finally:
            told.put("ended")

    _take(configuration.work)
    programs, way = Programs(configuration), way_of(configuration)
    for words in programs.problems:
        _LOG.warning("%s", words)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: told.put("stop"))
    threading.excepthook = ended
    slots = [Slot(n, configuration, programs, way, stopping) for n in range(len(programs.devices))]
    threads = [threading.Thread(target=live, args=(slot,), name=f"slot-{n}") for n, slot in enumerate(slots)]
    has = programs.capabilities()
    _LOG.info(
        "%s asks for work: %s; models: %s; %d slots (%s)",
        has.worker,
        ", ".join(sorted(has.programs)) or "no program",
        ", ".join(sorted(one.name for one in has.models)) or "none",
        len(has.devices),
        has.devices[0].name or has.devices[0].kind,
    )
    for thread in threads:
        thread.start()
    living = len(threads)
    while living:
        if told.get() == "ended":
            living -= 1
            continue
        if configuration.drain == "release" or stopping.asked.is_set():
            stopping.now.set()
        stopping.asked.set()
    for thread in threads:
        thread.join()
    try:
        way.tell(has.model_copy(update={"devices": ()}))
    except MqiError as error:
        _LOG.info("no farewell: %s", error.message)
    return 1 if failed else 0


def _take(work: Path) -> None:
    """Have the folder of jobs for this process alone, without what an earlier one has left."""
    try:
        private_folder(work)
        if hold(work / "lock", tries=1) is None:
            raise ConfigurationError("another worker works in this folder (work): give each one its own")
        shutil.rmtree(work / "jobs", ignore_errors=True)
    except OSError as error:
        raise ConfigurationError(f"the folder of jobs (work) cannot be used: {error.strerror}") from None


def doctor(configuration: Configuration) -> int:
    """Say of everything that work needs whether it is there; 1 where something is not."""
    faults = 0
    for subject, look in _examined(configuration):
        try:
            good, words = look()
        except MqiError as error:
            good, words = False, error.message
        faults += not good
        sys.stdout.write(f"{'ok   ' if good else 'FAULT'} {subject}: {words}\n")
    sys.stdout.write(f"{faults or 'no'} fault{'s' * (faults != 1)}\n")
    return 1 if faults else 0


def _examined(configuration: Configuration) -> Iterator[tuple[str, Callable[[], tuple[bool, str]]]]:
    known = list[Programs]()

    def devices() -> tuple[bool, str]:
        known.append(Programs(configuration))
        return True, ", ".join(one.name or f"{one.kind} {one.index}" for one in known[0].devices)

    def programs() -> tuple[bool, str]:
        told = known[0].capabilities().programs
        words = ", ".join(f"{name} {version}".strip() for name, version in sorted(told.items()))
        return bool(told) and not known[0].problems, "; ".join([words or "none", *known[0].problems])

    def models() -> tuple[bool, str]:
        usable = ", ".join(one.name for one in known[0].found_models() if not one.reason)
        bad = [f"{one.name}: {one.reason}" for one in known[0].found_models() if one.reason]
        return True, "; ".join([usable or "none", *bad])

    def work() -> tuple[bool, str]:
        folder = next(one for one in (configuration.work, *configuration.work.parents) if one.is_dir())
        free = shutil.disk_usage(folder).free
        writable = os.access(folder, os.W_OK)
        return writable and free > _LEAST_FREE_BYTES, f"{free / 1e9:.0f} GB free" + (
            "" if writable else ", and this account may not write there"
        )

    yield "devices", devices
    if known:
        yield "programs", programs
        yield "models", models
    yield "folder of jobs", work
    yield "shared folder" if configuration.folder else "server", lambda: (True, way_of(configuration).hello())


if __name__ == "__main__":
    main()
