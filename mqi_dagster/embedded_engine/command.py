"""The console script ``mqi-engine``: moqui's contract, with MCsquare behind it.

Exit codes: 0 the dose is on disk, 2 bad input, 3 the engine failed, 4 its dose is not valid, 128 + n ended
by signal n. An error is one line on standard error.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from mqi_dagster.embedded_engine.install import VERSION, installed_engine
from mqi_dagster.errors import (
    ConfigurationError,
    EngineError,
    EngineInputError,
    InfrastructureError,
    InputError,
)

ENGINE_VERSION = "1.0"
BAD_INPUT = 2
FAILED = 3
INVALID_DOSE = 4
THREADS = "MQI_ENGINE_THREADS"
CACHE = "MQI_ENGINE_CACHE"


class EndedBySignalError(BaseException):
    """A signal asked the engine to end; not an Exception, so that nothing on the way swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> None:
    """Run the engine on the TPS file that the command line names."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"mqi-engine {ENGINE_VERSION} (MCsquare {VERSION})")
        return
    if len(arguments) != 1 or arguments[0].startswith("-"):
        _fail("usage: mqi-engine <TPS file> | --version", BAD_INPUT)
    # Modules are made of objects that are never garbage.
    gc.set_threshold(50_000)
    # Here: the version is asked in every run of a beam, and needs nothing that computes.
    from mqi_dagster.dicom.light_pydicom import load_pydicom
    from mqi_dagster.embedded_engine.dose import InvalidDoseError

    load_pydicom()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        run(Path(arguments[0]))
    except EndedBySignalError as ended:
        # The parts are dead by now; a second signal must not cut the clean-up short.
        _fail(f"ended by signal {ended.number}", 128 + ended.number)
    except (EngineInputError, InputError, ConfigurationError) as error:
        _fail(str(error), BAD_INPUT)
    except InvalidDoseError as error:
        _fail(str(error), INVALID_DOSE)
    except (EngineError, InfrastructureError) as error:
        _fail(str(error), FAILED)
    except BrokenPipeError:
        # Nobody reads the progress any more; standard output must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail("nobody reads the output", FAILED)
    except OSError as error:
        _fail(f"a file cannot be written or read: {error.strerror}", FAILED)


def run(tps: Path) -> None:
    """Simulate what a TPS file asks for.

    Raises:
        MqiError: Of any kind; see the exit codes.
    """
    from mqi_dagster.embedded_engine.simulation import read_request, simulate

    installation = installed_engine(_cache())
    simulate(read_request(tps), installation, _at_once())


def _cache() -> Path | None:
    value = os.environ.get(CACHE)
    return Path(value) if value else None


def _at_once() -> int:
    value = os.environ.get(THREADS, "")
    if not value:
        return os.cpu_count() or 1
    if not value.isdecimal() or int(value) < 1:
        raise EngineInputError(f"{THREADS} must be a positive integer")
    return int(value)


def _end(number: int, frame: FrameType | None) -> None:
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    raise EndedBySignalError(number)


def _fail(message: str, code: int) -> None:
    print("mqi-engine: " + " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
