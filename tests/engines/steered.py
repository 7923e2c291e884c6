"""A declared test engine that a test steers while it runs: how long it takes, and which beams fail.

    python steered.py <TPS file> <steering file> <trace file>

The steering file is JSON: ``{"seconds": 1.5, "failing": ["2G000:TX"]}``; the seconds, for all batches, may be
changed while it runs. The trace gets one line when an
engine starts and one when it ends by itself: ``start|end <pid> <monotonic seconds> <beam name>``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import quick

BATCHES = 10


def traced(trace: Path, what: str, name: str) -> None:
    """One line of the trace, in one write."""
    with trace.open("a") as stream:
        stream.write(f"{what} {os.getpid()} {time.monotonic():.3f} {name}\n")


def seconds(steering: Path) -> float:
    """How long all batches take, as the steering file says now."""
    return float(json.loads(steering.read_text())["seconds"])


def main() -> int:
    """Simulate as the steering file says."""
    keys = quick.keys_of(Path(sys.argv[1]))
    trace = Path(sys.argv[3])
    name = quick.beam_name(keys)
    traced(trace, "start", name)
    steering, began = json.loads(Path(sys.argv[2]).read_text()), time.monotonic()
    layers = quick.samples_of(keys)
    quick.say(f"Uploading particles with batch.. : Particle count --> {len(layers)} with {BATCHES} batches")
    for batch in range(1, BATCHES + 1):
        quick.say(f"Generating particles for ({batch} of {BATCHES} batches) in CPU ..")
        while time.monotonic() - began < batch / BATCHES * seconds(Path(sys.argv[2])):
            time.sleep(0.05)
    if name in steering["failing"]:
        quick.say("steered to fail")
        traced(trace, "end", name)
        return 3
    quick.outputs(keys, quick.dose_of(keys, layers), name)
    quick.say(f"Total histories (Particles) : {quick.histories_of(keys, layers)}")
    quick.say("Uncertainty (mean above half maximum) : 1.50 %")
    traced(trace, "end", name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
