"""Moments as people read them: in the zone of their site. What is written down is in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

_WRITTEN = re.compile(r"\b(\d{4}-\d\d-\d\d \d\d:\d\d)(:\d\d)? UTC\b")


def local(moment: datetime, zone: tzinfo, *, seconds: bool = False) -> str:
    """A moment with the name of its zone, such as ``2026-01-05 10:10 KST``.

    Args:
        moment: With a zone of its own.
        zone: Of the site.
        seconds: Whether these are told too.
    """
    return f"{moment.astimezone(zone):{'%Y-%m-%d %H:%M:%S %Z' if seconds else '%Y-%m-%d %H:%M %Z'}}"


def in_zone(text: str, zone: tzinfo) -> str:
    """A text with every moment that is written in it as ``2026-01-05 01:10 UTC`` told in the site's zone."""

    def told(found: re.Match[str]) -> str:
        date, seconds = found.group(1), found.group(2)
        try:
            moment = datetime.fromisoformat(date + (seconds or "")).replace(tzinfo=UTC)
        except ValueError:
            return found.group(0)
        return local(moment, zone, seconds=seconds is not None)

    return _WRITTEN.sub(told, text)
