"""The cards in docs/models.md are cards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mqi_dagster.imaging.models.card import ModelCard, read_card

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
CARDS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", CARDS, ids=[text.split("\n", 1)[0] for text in CARDS])
def test_a_card_of_the_page_is_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(text)
    assert text.startswith(f"name: {read_card(tmp_path).name}\n")


def test_the_page_has_a_card_for_each_runtime_that_a_site_can_bring() -> None:
    runtimes = sorted(re.findall(r"^runtime: (\w+)$", "\n".join(CARDS), re.MULTILINE))
    assert runtimes == ["command", "nnunet", "onnx", "totalsegmentator"]


def test_the_table_names_the_keys_of_a_card() -> None:
    sections = {"onnx", "command", "totalsegmentator", "nnunet", "rules"}
    table = PAGE.partition("## A card")[2].partition("\n## ")[0]
    assert [key for key in ModelCard.model_fields if f"`{key}`" not in table and key not in sections] == [
        "network"
    ]
