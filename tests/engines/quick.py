"""A declared test engine: no physics. It reads what a real engine reads and leaves what a real one leaves.

Its dose is a pencil of Bragg-like depth curves made from the counts, positions and energies of the CSVs that
it was given, so that another beam, layer, count or order of samples gives another dose, and the same content
the same bits. It prints moqui's lines.

    python quick.py <TPS file> [--seconds S] [--trace FILE] [--file-name NAME]

``--seconds`` makes it slow; ``--trace`` appends one line at its start and one at its end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def keys_of(tps: Path) -> dict[str, str]:
    """The TPS file by lower-case key."""
    lines = [line.split("#", 1)[0].strip() for line in tps.read_text().splitlines()]
    return {line.split(maxsplit=1)[0].lower(): line.split(maxsplit=1)[1] for line in lines if line}


def samples_of(keys: dict[str, str]) -> list[tuple[float, np.ndarray]]:
    """Energy and rows (time, x, y, count) of every layer, in the order of names."""
    (folder,) = Path(keys["logfilepath"]).iterdir()
    return [
        (float(path.stem.split("_")[1].removesuffix("MeV")), np.loadtxt(path, delimiter=",", ndmin=2))
        for path in sorted(folder.glob("*.csv"))
    ]


def protons_per_count(model: dict[str, object], energy: float) -> float:
    """K(E) from the beam model beside the CSVs."""
    table = model["tables"]["protons_per_mu"]  # type: ignore[index]
    per_mu = float(np.interp(energy, table["energy_mev"], table["value"]))
    return per_mu * float(model["mu_per_count"]) * float(model["counts_divided_by"])  # type: ignore[arg-type]


def geometry(keys: dict[str, str]) -> tuple[list[int], list[float], list[float]]:
    """Voxels, voxel size [mm] and lower edge [mm] in x, y, z."""
    return (
        [int(keys[f"phantomdim{axis}"]) for axis in "xyz"],
        [float(keys[f"phantomunit{axis}"]) for axis in "xyz"],
        [float(keys[f"phantomposition{axis}"]) for axis in "xyz"],
    )


def dose_of(keys: dict[str, str], layers: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """Dose [z, y, x] in Gy-like numbers; depth runs along -z from the surface.

    The surface is at z = 20 mm in 2 cm mode, and otherwise at the upper edge of the box.
    """
    model = json.loads(Path(keys["beammodelfile"]).read_text())
    voxels, steps, edges = geometry(keys)
    x, y, z = (e + s * (np.arange(n) + 0.5) for n, s, e in zip(voxels, steps, edges, strict=True))
    surface = 20.0 if keys["twocentimetermode"] == "true" else edges[2] + steps[2] * voxels[2]
    depth = surface - z
    dose = np.zeros(voxels[::-1])
    for energy, rows in layers:
        reach = 0.022 * energy**1.77
        peak = np.exp(-(((depth - reach) / 12.0) ** 2))
        curve = np.where((depth > 0) & (depth < reach + 15), 0.3 + peak, 0.0)
        weight = rows[:, 3] * protons_per_count(model, energy)
        spread_x = np.exp(-(((x[None, :] - rows[:, 1:2]) / 8.0) ** 2))
        spread_y = np.exp(-(((y[None, :] - rows[:, 2:3]) / 8.0) ** 2))
        late = 1.0 + 1e-9 * rows[:, 0]
        # Not by BLAS, whose last bits depend on its threads and on where the arrays lie.
        fluence = np.einsum("sy,sx->yx", (weight * late)[:, None] * spread_y, spread_x)
        dose += curve[:, None, None] * fluence[None, :, :]
    return dose * 1e-12


def write(folder: Path, stem: str, dose: np.ndarray, edge: list[float], spacing: list[float]) -> None:
    """Raw values and header as moqui writes them."""
    dose.astype("<f8").tofile(folder / f"{stem}.raw")
    nz, ny, nx = dose.shape
    (folder / f"{stem}.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        "CompressedData = False\nTransformMatrix 1 0 0 0 1 0 0 0 1\n"
        f"Offset {edge[0]:g} {edge[1]:g} {edge[2]:g}\nCenterOfRotation 0 0 0\nAnatomicOrientation RAI\n"
        f"DimSize = {nx} {ny} {nz}\nElementType = MET_DOUBLE\n"
        f"ElementSpacing = {spacing[0]:g} {spacing[1]:g} {spacing[2]:g}\nElementDataFile = {stem}.raw\n"
    )


def beam_name(keys: dict[str, str]) -> str:
    """The beam's name in the one plan that it was given."""
    import pydicom

    return str(pydicom.dcmread(Path(keys["dicompath"]) / "RP.dcm").IonBeamSequence[0].BeamName)


def outputs(keys: dict[str, str], dose: np.ndarray, name: str) -> None:
    """The 3-D dose, and the plane in 2 cm mode."""
    _, (dx, dy, dz), (x0, y0, z0) = geometry(keys)
    folder = Path(keys["outputdir"])
    write(folder, f"{name}_1_Dose", dose, [x0, y0, z0], [dx, dy, dz])
    if keys["twocentimetermode"] == "true":
        index = round((-dz / 2 - z0) / dz)
        write(folder, f"{name}_2_Dose", dose[index : index + 1], [x0, y0, -dz / 2], [dx, dy, dz])


def histories_of(keys: dict[str, str], layers: list[tuple[float, np.ndarray]]) -> int:
    """ParticlesPerHistory times the protons of the counts."""
    model = json.loads(Path(keys["beammodelfile"]).read_text())
    protons = sum(float(rows[:, 3].sum()) * protons_per_count(model, energy) for energy, rows in layers)
    return round(float(keys["particlesperhistory"]) * protons)


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def simulate(tps: Path, say: Callable[[str], None], seconds: float = 0.0) -> None:
    """What this engine does with a TPS file.

    Args:
        tps: The file.
        say: Takes the lines that a real engine prints.
        seconds: How long it should take.
    """
    keys = keys_of(tps)
    layers = samples_of(keys)
    batches = 4
    say(f"Uploading particles with batch.. : Particle count --> {len(layers)} with {batches} batches")
    for batch in range(1, batches + 1):
        say(f"Generating particles for ({batch} of {batches} batches) in CPU ..")
        time.sleep(seconds / batches)
        say("Particle transportation complete!")
    outputs(keys, dose_of(keys, layers), beam_name(keys))
    say(f"Total beamlets (Spots) : {sum(len(rows) for _, rows in layers)}")
    say(f"Total histories (Particles) : {histories_of(keys, layers)}")
    say("Uncertainty (mean above half maximum) : 1.50 %")
    say("Time taken by MC engine: 10.0 milli-seconds")


def main() -> None:
    """Simulate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tps", type=Path)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--trace", type=Path)
    arguments = parser.parse_args()
    if arguments.trace:
        with arguments.trace.open("a") as stream:
            stream.write(f"start {os.getpid()} {time.monotonic()}\n")
    simulate(arguments.tps, say, arguments.seconds)
    if arguments.trace:
        with arguments.trace.open("a") as stream:
            stream.write(f"end {os.getpid()} {time.monotonic()}\n")


if __name__ == "__main__":
    sys.exit(main())
