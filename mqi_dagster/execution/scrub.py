"""Text without identifiers: what other programs print before it becomes a log or an error."""

from __future__ import annotations

import re
from collections.abc import Iterable

REDACTED = "[redacted]"
_SHORTEST = 3
# An absolute path with at least two parts; `1/2` and `(x/y)` have a letter or digit before the slash.
_PATH_REST = r"[^\s:'\"<>|]*"
_PATH = rf"(?<![\w.])(?:file://)?/[^\s/:'\"<>|]+/{_PATH_REST}"


class Scrubber:
    """Replaces identifiers and absolute paths.

    Args:
        identifiers: Names, numbers, UIDs and real paths that must not appear. Of a DICOM person name
            (``A^B``) each part counts as a word as well. Shorter than three characters they are left out,
            since every text would hold them.
    """

    def __init__(self, identifiers: Iterable[str] = ()) -> None:
        given = {text.strip() for text in identifiers}
        whole = {text for text in given if len(text) >= _SHORTEST}
        words = {part.strip() for text in given for part in re.split(r"[\^=]", text) if part != text}
        # Of a path what follows it goes too: the names below a folder are no better than its own.
        patterns = [
            re.escape(text) + (_PATH_REST if text.startswith("/") else "")
            for text in sorted(whole, key=lambda text: (-len(text), text))
        ]
        patterns.append(_PATH)
        patterns += [
            rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
            for word in sorted(words, key=lambda text: (-len(text), text))
            if len(word) >= _SHORTEST
        ]
        self._pattern = re.compile("|".join(patterns), re.IGNORECASE)

    def text(self, text: str) -> str:
        """The text with every identifier and path replaced."""
        return self._pattern.sub(REDACTED, text)

    def bytes(self, data: bytes) -> bytes:
        """The same for bytes in UTF-8; bytes that are none stay as they are."""
        return self.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
