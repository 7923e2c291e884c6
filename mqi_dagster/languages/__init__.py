"""What people read in their language: English stands in the code, what it is elsewhere in a catalogue."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations

from mqi_dagster.settings.web import Language

CATALOGUES = Path(__file__).parent
"""Folder with a gettext catalogue for each language but English."""


@cache
def catalogue(language: Language) -> NullTranslations:
    """The texts of a language; English ones are their own."""
    path = CATALOGUES / f"{language.value}.po"
    if not path.is_file():
        return NullTranslations()
    compiled = io.BytesIO()
    with path.open("rb") as stream:
        write_mo(compiled, read_po(stream, locale=language.value))
    compiled.seek(0)
    return Translations(compiled)


def translated(text: str, language: Language) -> str:
    """A text in a language; itself where the catalogue does not have it."""
    return str(catalogue(language).ugettext(text)) if text else ""
