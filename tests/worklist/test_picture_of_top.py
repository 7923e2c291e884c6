"""The picture of the board in the README is of the board as it is."""

from __future__ import annotations

import html

from tests.worklist.picture import PICTURE, picture


def test_the_picture_is_what_the_program_draws() -> None:
    made = picture()
    assert PICTURE.read_text(encoding="utf-8") == made
    words = html.unescape(made).replace("\xa0", " ")
    for wanted in ("17/20", "gpu-node/gpu3", "97 %", "71 °C", "the pool is full: 6 of 6", "no memory left"):
        assert wanted in words
