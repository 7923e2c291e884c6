"""Text without identifiers: what other programs print before it becomes a log or an error."""

from __future__ import annotations

import re
from collections.abc import Iterable

REDACTED = "[redacted]"
_SHORTEST = 3
_LONGEST_LINE = 1 << 20
# An absolute path with at least two parts; `1/2` and `(x/y)` have a letter or digit before the slash.
_PATH_REST = r"[^\s:'\"<>|]*"
_PATH = rf"(?<![\w.])(?:file://)?/[^\s/:'\"<>|]+/{_PATH_REST}"
_LINE_END = re.compile(rb"[\r\n]")


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

    def stream(self) -> ScrubbedStream:
        """A stream of its own, for output that comes in pieces."""
        return ScrubbedStream(self)


class ScrubbedStream:
    """Output that comes in pieces: only whole lines leave it, so that no identifier is cut in two.

    Args:
        scrubber: What replaces the identifiers.
    """

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._line = bytearray()
        self._overlong = False

    def feed(self, data: bytes) -> bytes:
        """The lines that are complete now, scrubbed.

        Args:
            data: The next piece; lines end in a line feed or a carriage return.
        """
        self._line += data
        last = max(self._line.rfind(b"\n"), self._line.rfind(b"\r"))
        complete = bytes(self._line[: last + 1])
        del self._line[: last + 1]
        if self._overlong and complete:
            first = _LINE_END.search(complete)
            assert first is not None
            complete = complete[first.start() :]
            self._overlong = False
        given = self._scrubber.bytes(complete)
        if len(self._line) > _LONGEST_LINE:
            # A line without an end is dropped: no place in it is known to be safe to cut.
            self._line.clear()
            given += b"" if self._overlong else REDACTED.encode("ascii")
            self._overlong = True
        return given

    def close(self) -> bytes:
        """The last line, where it has no end."""
        rest = b"" if self._overlong else self._scrubber.bytes(bytes(self._line))
        self._line.clear()
        self._overlong = False
        return rest
