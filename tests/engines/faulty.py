"""A declared test engine that fails in the way a file says, or works like ``quick.py`` when it says "good".

    python faulty.py <TPS file> <mode file>

It prints the text of success in every mode but ``crash-text``: the output and the exit code decide.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import quick

MODES = (
    "zero-histories",
    "few-histories",
    "all-zero",
    "nan",
    "negative",
    "other-beam",
    "stale",
    "nothing",
    "half-a-file",
    "exit-1",
    "killed",
    "crash-text",
    "hang",
)


def main() -> int:
    """Simulate, and break what the mode file names."""
    keys = quick.keys_of(Path(sys.argv[1]))
    mode = Path(sys.argv[2]).read_text().strip()
    assert mode == "good" or mode in MODES, mode
    layers = quick.samples_of(keys)
    quick.say("Uploading particles with batch.. : Particle count --> 3 with 1 batches")
    quick.say("Generating particles for (1 of 1 batches) in CPU ..")
    if mode == "hang":
        time.sleep(600)
    if mode == "crash-text":
        quick.say("terminate called after throwing an instance of 'std::bad_alloc'")
        quick.say("  what():  std::bad_alloc")
        return 1
    dose = quick.dose_of(keys, layers)
    histories = quick.histories_of(keys, layers)
    name = quick.beam_name(keys)
    if mode == "zero-histories":
        histories = 0
    if mode == "few-histories":
        histories = round(0.99 * histories)
    if mode == "all-zero":
        dose = 0.0 * dose
    if mode == "nan":
        dose[3, 2, 1] = float("nan")
    if mode == "negative":
        dose[3, 2, 1] = -1e-6
    if mode == "other-beam":
        name = "another beam"
    if mode != "nothing":
        quick.outputs(keys, dose, name)
    folder = Path(keys["outputdir"])
    if mode == "stale":
        for path in folder.iterdir():
            os.utime(path, (time.time() - 3600, time.time() - 3600))
    if mode == "half-a-file":
        for path in folder.glob("*.raw"):
            os.truncate(path, path.stat().st_size // 2 - 3)
    quick.say("Total beamlets (Spots) : 3")
    quick.say(f"Total histories (Particles) : {histories}")
    quick.say("Uncertainty (mean above half maximum) : 1.50 %")
    quick.say("Time taken by MC engine: 10.0 milli-seconds")
    quick.say("Simulation complete")
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return 1 if mode == "exit-1" else 0


if __name__ == "__main__":
    sys.exit(main())
