"""A workbook as a reader of its XML sees it: no library that forgives anything stands between."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZipFile

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


@dataclass(frozen=True)
class Sheet:
    """One sheet."""

    rows: list[dict[str, object]]
    """Values of the cells by the letters of their columns: text, float or bool."""
    widths: list[float]
    frozen_rows: int
    formulas: int


def read_sheets(path: Path) -> dict[str, Sheet]:
    """Every sheet by its name, in the order of the workbook."""
    with ZipFile(path) as archive:
        book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
        relations = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
        places = {one.attrib["Id"]: one.attrib["Target"] for one in relations}
        return {
            sheet.attrib["name"]: _sheet(archive.read(f"xl/{places[sheet.attrib[_RELATION]]}"))
            for sheet in book.iter(f"{_MAIN}sheet")
        }


def _sheet(content: bytes) -> Sheet:
    root = ElementTree.fromstring(content)
    pane = root.find(f".//{_MAIN}pane")
    return Sheet(
        rows=[
            {cell.attrib["r"].rstrip("0123456789"): _value(cell) for cell in row if len(cell)}
            for row in root.iter(f"{_MAIN}row")
        ],
        widths=[float(one.attrib["width"]) for one in root.iter(f"{_MAIN}col")],
        frozen_rows=0 if pane is None else int(pane.attrib.get("ySplit", 0)),
        formulas=len(list(root.iter(f"{_MAIN}f"))),
    )


def _value(cell: ElementTree.Element) -> object:
    kind = cell.attrib.get("t", "n")
    if kind == "inlineStr":
        return "".join(part.text or "" for part in cell.iter(f"{_MAIN}t"))
    (value,) = (part.text or "" for part in cell.iter(f"{_MAIN}v"))
    return {"n": float, "b": lambda text: text == "1", "e": str}[kind](value)
