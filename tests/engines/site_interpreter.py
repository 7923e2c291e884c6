"""A site's own interpreter for the tests, in ten lines of its own; a declared stand-in, with faults by mode.

python site_interpreter.py <mode> <input> <plan> <beam number> <output>
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
import pydicom

X0, GAIN, PERIOD_MS = 32768, 0.01, 0.06
FACTORS = {1: 160 / 470, 2: 1.0, 3: 1400 / 470}


def main() -> int:
    """Write the CSVs, or fail as the mode says."""
    mode, given, plan, number, output = sys.argv[1:]
    if mode == "hang":
        time.sleep(600)
    if mode == "nothing":
        return 0
    if mode == "exit-3":
        print("the converter has no licence", file=sys.stderr)
        return 3
    root = Path(given).parent / "elsewhere" if mode == "elsewhere" else Path(output)
    beams = pydicom.dcmread(plan).IonBeamSequence
    name = next(str(beam.BeamName) for beam in beams if int(beam.BeamNumber) == int(number))
    folder = root / "log" / re.sub(r"[^A-Za-z0-9_-]", "_", name)
    folder.mkdir(parents=True)
    for sheet in Path(given).rglob("PlanRange.txt"):
        lines = [line.split(",") for line in sheet.read_text().splitlines()]
        head = [cell.strip() for cell in lines[0]]
        for line in lines[1:]:
            row = dict(zip(head, (cell.strip() for cell in line), strict=False))
            record = np.fromfile(sheet.parent / row["SCAN_OUT_FL_NM"], ">u2").reshape(-1, 8).astype(float)
            on = record[:, 7].astype(int) & 0xC000 == 0xC000
            times, kept = PERIOD_MS * np.flatnonzero(on), record[on]
            sums = np.rint(np.cumsum(kept[:, 4] * FACTORS[int(row["DOSE1_RANGE"])]))
            counts = np.diff(sums, prepend=0.0)
            if mode == "half-the-counts":
                counts = np.floor(counts / 2)
            table = np.column_stack([times, (kept[:, :2] - X0) * GAIN, counts])
            energy = float(row["LAYER_ENERGY"])
            target = folder / f"{int(row['LAYER_NO']):02d}_{energy:.2f}MeV.csv"
            np.savetxt(target, table, fmt=["%.6f", "%.6f", "%.6f", "%d"], delimiter=",")
    return 0


if __name__ == "__main__":
    sys.exit(main())
