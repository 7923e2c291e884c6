"""A series out of a real Orthanc, proven and written to disk, beside one plain GET for each of its images.

python -m benchmarks.pacs [--images 200] [--folder FOLDER]

The plain way is what a script with `requests` does: a connection for each image, and gzip accepted, which an
Orthanc before 1.12.2 then applies to every file. Debian's package orthanc is needed.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

from mqi_dagster.dicom.orthanc_pacs import OrthancPacs
from mqi_dagster.dicom.pacs import PacsSeries, fetch_series
from tests.courses.made_objects import Made
from tests.dicom.orthanc_server import Server, running_orthanc

SIZE = 512


def ct_image(number: int, generator: np.random.Generator) -> bytes:
    """A slice of a body with the noise of a CT."""
    y, x = np.ogrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    body = np.where((x / 0.8) ** 2 + (y / 0.6) ** 2 < 1, 1060.0, 24.0)
    pixels = np.clip(body + generator.normal(0, 12, (SIZE, SIZE)), 0, 4095).astype("<u2")
    changes = {"Rows": SIZE, "Columns": SIZE, "PixelData": pixels.tobytes()}
    return Made(1).image(number, **changes)


def plain(server: Server, pacs: OrthancPacs, series: PacsSeries, folder: Path) -> None:
    """One GET for each image."""
    folder.mkdir()
    for number, one in enumerate(pacs.images(series)):
        url = f"http://127.0.0.1:{server.port}/instances/{one.identifier}/file"
        request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip, deflate"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
            if answer.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
        (folder / f"{number:05d}.dcm").write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="Where all files go; else one that is removed.")
    options = parser.parse_args()
    generator = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(prefix="mqi-pacs.", dir=options.folder) as name:
        folder = Path(name)
        with running_orthanc(folder / "orthanc", AuthenticationEnabled=False) as server:
            size = 0
            for number in range(options.images):
                content = ct_image(number, generator)
                size += len(content)
                server.store(content)
            pacs = OrthancPacs(server.source)
            (series,) = pacs.find("")
            seconds = {}
            for way in ("ours", "plain"):
                began = time.perf_counter()
                if way == "ours":
                    fetch_series(pacs, series, folder / way)
                else:
                    plain(server, pacs, series, folder / way)
                seconds[way] = time.perf_counter() - began
            for way, words in (("plain", "one GET each, gzip"), ("ours", "four at once, each proven")):
                took = seconds[way]
                print(f"{words:28} {took:8.2f} s {size / took / 1e6:8.1f} MB/s")
            print(f"{'times':28} {seconds['plain'] / seconds['ours']:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
