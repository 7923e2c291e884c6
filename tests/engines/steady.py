"""A declared test engine for clusters: no physics, nothing but Python's standard library, a steady pace.

It reads the TPS file, the plan, the beam model and the CSVs that it was given, prints moqui's lines, lasts as
long as it is told, and makes its dose from the content it has read: the CSVs of another beam, layer or start
give another dose, the same content the same bits.

    steady.py <TPS file> [--seconds S] [--steer FILE] [--trace FILE]

``--steer``: a JSON file that is read at the start and once a batch: ``seconds`` (in all), ``memory_mb`` (to
take), ``exit_code`` (to end with, before any output). ``--trace`` gets one line at the start and one at the
end: ``start|end <Slurm job id> <start of the job> <node> <GPUs> <seconds since 1970> <beam name>``.
"""

from __future__ import annotations

import argparse
import array
import hashlib
import json
import math
import os
import sys
import time
from pathlib import Path

BATCHES = 10


def keys_of(tps: Path) -> dict[str, str]:
    """The TPS file by lower-case key."""
    lines = [line.split("#", 1)[0].strip() for line in tps.read_text().splitlines()]
    return {line.split(maxsplit=1)[0].lower(): line.split(maxsplit=1)[1] for line in lines if line}


def beam_name(keys: dict[str, str]) -> str:
    """BeamName (300A,00C2) of the one beam in the plan that it was given; little endian, both kinds of VR."""
    content = (Path(keys["dicompath"]) / "RP.dcm").read_bytes()
    at = content.index(b"\x0a\x30\xc2\x00") + 4
    explicit = content[at : at + 2] == b"LO"
    length = int.from_bytes(content[at + 2 : at + 4] if explicit else content[at : at + 4], "little")
    return content[at + 4 : at + 4 + length].decode("utf-8").strip()


def layers_of(keys: dict[str, str]) -> list[tuple[float, list[list[float]]]]:
    """Energy and rows (time, x, y, count) of every layer, in the order of names."""
    (folder,) = Path(keys["logfilepath"]).iterdir()
    return [
        (
            float(path.stem.split("_")[1].removesuffix("MeV")),
            [[float(text) for text in line.split(",")] for line in path.read_text().splitlines() if line],
        )
        for path in sorted(folder.glob("*.csv"))
    ]


def interpolated(energies: list[float], values: list[float], energy: float) -> float:
    """Linear interpolation, constant beyond the ends."""
    if energy <= energies[0]:
        return values[0]
    for low, high, below, above in zip(energies, energies[1:], values, values[1:], strict=False):
        if energy <= high:
            return below + (above - below) * (energy - low) / (high - low)
    return values[-1]


def protons_per_count(model: dict[str, object], energy: float) -> float:
    """K(E) from the beam model beside the CSVs."""
    table = model["tables"]["protons_per_mu"]  # type: ignore[index]
    per_mu = interpolated(table["energy_mev"], table["value"], energy)
    return per_mu * float(model["mu_per_count"]) * float(model["counts_divided_by"])  # type: ignore[arg-type]


def dose_of(
    keys: dict[str, str], layers: list[tuple[float, list[list[float]]]], model: dict[str, object]
) -> list[array.array[float]]:
    """Dose by plane along z, each in y and x: a pencil for every layer, marked by its content."""
    voxels = [int(keys[f"phantomdim{axis}"]) for axis in "xyz"]
    steps = [float(keys[f"phantomunit{axis}"]) for axis in "xyz"]
    edges = [float(keys[f"phantomposition{axis}"]) for axis in "xyz"]
    centres = [
        [edge + step * (i + 0.5) for i in range(n)]
        for n, step, edge in zip(voxels, steps, edges, strict=True)
    ]
    planes = [array.array("d", bytes(8 * voxels[0] * voxels[1])) for _ in centres[2]]
    for energy, rows in layers:
        counts = sum(row[3] for row in rows)
        mark = int.from_bytes(hashlib.sha256(repr((energy, rows)).encode()).digest()[:4], "big") / 2**32
        weight = 1e-12 * counts * protons_per_count(model, energy) * (1 + 1e-3 * mark)
        x0, y0 = (sum(row[axis] * row[3] for row in rows) / counts for axis in (1, 2))
        across = [
            math.exp(-(((x - x0) / 15) ** 2) - ((y - y0) / 15) ** 2) for y in centres[1] for x in centres[0]
        ]
        reach = 0.022 * energy**1.77
        for plane, z in zip(planes, centres[2], strict=True):
            depth = 20.0 - z
            if 0 < depth < reach + 15:
                here = weight * (0.3 + math.exp(-(((depth - reach) / 12) ** 2)))
                for i, value in enumerate(across):
                    plane[i] += here * value
    return planes


def write(
    folder: Path, stem: str, planes: list[array.array[float]], keys: dict[str, str], edge: float
) -> None:
    """Raw values and header as moqui writes them."""
    with (folder / f"{stem}.raw").open("wb") as stream:
        for plane in planes:
            plane.tofile(stream)
    unit = [float(keys[f"phantomunit{axis}"]) for axis in "xyz"]
    low = [float(keys[f"phantomposition{axis}"]) for axis in "xy"]
    (folder / f"{stem}.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        "CompressedData = False\nTransformMatrix 1 0 0 0 1 0 0 0 1\n"
        f"Offset {low[0]:g} {low[1]:g} {edge:g}\nCenterOfRotation 0 0 0\nAnatomicOrientation RAI\n"
        f"DimSize = {keys['phantomdimx']} {keys['phantomdimy']} {len(planes)}\nElementType = MET_DOUBLE\n"
        f"ElementSpacing = {unit[0]:g} {unit[1]:g} {unit[2]:g}\nElementDataFile = {stem}.raw\n"
    )


def outputs(keys: dict[str, str], planes: list[array.array[float]], name: str) -> None:
    """The 3-D dose, and the plane in 2 cm mode."""
    folder, step, edge = Path(keys["outputdir"]), float(keys["phantomunitz"]), float(keys["phantompositionz"])
    write(folder, f"{name}_1_Dose", planes, keys, edge)
    if keys["twocentimetermode"] == "true":
        index = round((-step / 2 - edge) / step)
        write(folder, f"{name}_2_Dose", planes[index : index + 1], keys, -step / 2)


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def traced(trace: Path | None, what: str, name: str) -> None:
    """One line of the trace, in one write."""
    if trace is None:
        return
    variables = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES")
    words = [os.environ.get(variable) or "-" for variable in variables]
    with trace.open("a") as stream:
        stream.write(f"{what} {' '.join(words)} {time.time():.3f} {name}\n")


def main() -> int:
    """Simulate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tps", type=Path)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--steer", type=Path)
    parser.add_argument("--trace", type=Path)
    arguments = parser.parse_args()

    def steering() -> dict[str, float]:
        if arguments.steer is None or not arguments.steer.is_file():
            return {}
        return dict(json.loads(arguments.steer.read_text()))

    keys = keys_of(arguments.tps)
    name = beam_name(keys)
    traced(arguments.trace, "start", name)
    began, steer = time.monotonic(), steering()
    taken = bytearray(int(steer.get("memory_mb", 0)) << 20)
    taken[:: 1 << 12] = b"x" * len(taken[:: 1 << 12])
    layers = layers_of(keys)
    model = json.loads(Path(keys["beammodelfile"]).read_text())
    say(f"Uploading particles with batch.. : Particle count --> {len(layers)} with {BATCHES} batches")
    for batch in range(1, BATCHES + 1):
        say(f"Generating particles for ({batch} of {BATCHES} batches) in CPU ..")
        while time.monotonic() - began < batch / BATCHES * steering().get("seconds", arguments.seconds):
            time.sleep(0.05)
        say("Particle transportation complete!")
    if "exit_code" in steer:
        say("steered to fail")
        traced(arguments.trace, "end", name)
        return int(steer["exit_code"])
    outputs(keys, dose_of(keys, layers, model), name)
    protons = sum(sum(row[3] for row in rows) * protons_per_count(model, energy) for energy, rows in layers)
    say(f"Total beamlets (Spots) : {sum(len(rows) for _, rows in layers)}")
    say(f"Total histories (Particles) : {round(float(keys['particlesperhistory']) * protons)}")
    say("Uncertainty (mean above half maximum) : 1.50 %")
    say("Time taken by MC engine: 10.0 milli-seconds")
    traced(arguments.trace, "end", name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
