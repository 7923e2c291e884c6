"""Names at the target, from the template in the settings."""

from __future__ import annotations


def beam_folder(template: str, case: str, beam: str, number: int) -> str:
    """Folder of a beam's results, relative to the target."""
    named = template.replace("<case>", case).replace("<beam_number>", f"{number:02d}").replace("<beam>", beam)
    return named.strip("/")


def case_folder(template: str, case: str) -> str:
    """Folder of a case's summary: the part of the template above the first one that names a beam.

    Where that part does not name the case, a folder called like the case stands below it.
    """
    parts = template.strip("/").split("/")
    above = []
    for part in parts:
        if "<beam" in part:
            break
        above.append(part)
    folder = "/".join(above).replace("<case>", case)
    return folder if any("<case>" in part for part in above) else f"{folder}/{case}".strip("/")
