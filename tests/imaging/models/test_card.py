"""The model card: what it holds, what is refused and why, and how models are found."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mqi_dagster.imaging.models.card import PACKAGED_MODELS, find_models, read_card
from mqi_dagster.imaging.models.model_errors import ModelCardError, UnsafeModelError
from tests.imaging.models.model_folders import Content, card, command_card, region, weights, write_card

NETWORK = {"weights": "net.onnx", "spacing_mm": [1, 1, 1], "labels": [0, 1]}
WEIGHTS = [{"file": "net.onnx", "sha256": "ab" * 32}]


def onnx_card(network: Content | None = None, **changes: Any) -> Content:
    """A card of a network that is not there."""
    return card("onnx", {"network": {**NETWORK, **(network or {})}}, **{"weights": WEIGHTS, **changes})


def test_card_tells_what_a_model_is(tmp_path: Path) -> None:
    content = command_card(
        inputs=[{"role": "CT"}, {"role": "PET", "description": "SUV"}],
        regions=[
            region("Lungs", 1, tg263="Lungs", laterality="both", includes=[2], volume_cm3=[500, 9000]),
            region("Tumour", 2),
        ],
    )
    content["command"]["argv"] = ["run", "{inputs}", "{output}"]

    read = read_card(write_card(tmp_path / "made", content))

    assert (read.name, read.version, read.runtime) == ("made", "3", "command")
    assert [one.role for one in read.inputs] == ["CT", "PET"]
    assert read.regions[0].labels == (1, 2)
    assert read.regions[0].volume_cm3 == (500.0, 9000.0)
    assert (read.regions[0].code.scheme, read.regions[0].category.value) == ("SCT", "91723000")
    assert read.labels == {1, 2}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (command_card(colour="red"), "colour: there is no such key"),
        (command_card(version=3), "version: must be text"),
        (command_card(modality="US"), "modality: must be 'CT', 'MR' or 'PT'"),
        (command_card(regions=[]), "regions: must have at least 1"),
        (command_card(regions=[region("A", 0)]), "regions.0.label: must be at least 1"),
        (command_card(regions=[region("A", 1), region("B", 1)]), "a label stands there twice"),
        (command_card(regions=[region("A", 1), region("A", 2)]), "a region stands there twice"),
        (command_card(regions=[region("A", 1, includes=[7])]), "includes a label that no region has"),
        (
            command_card(regions=[region(volume_cm3=[10, 5])]),
            "volume_cm3: must be two volumes, the smaller first",
        ),
        (command_card(regions=[region(tg263="Brain of the head")]), "regions.0.tg263"),
        (command_card(inputs=[{"role": "CT"}, {"role": "CT"}]), "a role stands there twice"),
        (command_card(limits=[]), "limits: must have at least 1"),
        (command_card(runtime="onnx"), "the section onnx alone must be there"),
        (command_card(rules={}), "the section command alone must be there"),
        (command_card("run", "{input:CT}"), "argv must name {output}"),
        (command_card("run", "{output}"), "argv must name {output}, and {inputs} or each {input:ROLE}"),
        (command_card("run", "{input:CT}", "{output}", "{home}"), "there is no placeholder {home}"),
        (command_card("run", "{input:CT}", "{output}", "${x"), "a brace is not part of a placeholder"),
        (command_card(weights=[{"file": "../a", "sha256": "ab" * 32}]), "weights.0.file"),
        (command_card(weights=[{"file": "/a", "sha256": "ab" * 32}]), "weights.0.file"),
        (command_card(weights=[{"file": "a", "sha256": "AB" * 32}]), "weights.0.sha256"),
        (onnx_card(weights=[]), "its weights are not among the files of weights"),
        (onnx_card({"shape": [8, 8, 8]}), "needs either spacing_mm or shape"),
        (onnx_card({"labels": [0, 1, 5]}), "a channel has a label that no region has"),
        (onnx_card({"labels": [0, 1, 1]}), "labels must name at least one region, and each once"),
        (onnx_card({"labels": [1]}), "a network without a background channel needs a threshold"),
        (onnx_card({"intensity": [{}, {}]}), "intensity must be one for all inputs, or one for each"),
        (onnx_card({"intensity": [{"rescale": True}]}), "rescale needs a clip"),
        (onnx_card({"intensity": [{"clip": {}}]}), "needs either values or percentiles"),
        (
            onnx_card({"intensity": [{"clip": {"percentiles": [5, 101]}}]}),
            "needs two limits, the lower first",
        ),
        (onnx_card({"overlap": 1.0}), "overlap: must be below 1"),
        (card("onnx", {"network": NETWORK, "orientation": "RAL"}, weights=WEIGHTS), "one each of R or L"),
        (card("rules", {}), "find External, Lung, Air, Bone, Couch alone"),
        (card("rules", {}, regions=[region("External")], weights=WEIGHTS), "without weights"),
    ],
)
def test_wrong_card_is_refused_by_the_name_of_what_is_wrong(
    tmp_path: Path, content: Content, words: str
) -> None:
    with pytest.raises(ModelCardError) as caught:
        read_card(write_card(tmp_path, content))
    assert words in str(caught.value)


def test_card_with_a_tag_is_refused_and_not_obeyed(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    text = yaml.safe_dump(command_card())
    (tmp_path / "model.yaml").write_text(f"{text}\nsummary: !!python/object/apply:os.mkdir ['{sign}']\n")

    with pytest.raises(ModelCardError, match="is not YAML"):
        read_card(tmp_path)
    assert not sign.exists()


@pytest.mark.parametrize(
    "content",
    [
        command_card(network=True),
        command_card("run", "{input:CT}", "{output}", "--weights=https://example.org/a"),
        card(
            "command", {"argv": ["run", "{inputs}", "{output}"], "environment": {"HUB": "http://example.org"}}
        ),
    ],
)
def test_model_that_asks_for_the_network_is_refused_by_name(tmp_path: Path, content: Content) -> None:
    with pytest.raises(UnsafeModelError, match="model made asks for the network"):
        read_card(write_card(tmp_path, content))


def test_folder_without_a_card_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelCardError, match="model card cannot be read: No such file"):
        read_card(tmp_path)


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
)


def _paths(content: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    return [path for key, value in items for path in [(*before, key), *_paths(value, (*before, key))]]


@given(data=st.data())
def test_any_value_at_any_place_gives_a_card_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = copy.deepcopy(onnx_card())
    *parents, last = data.draw(st.sampled_from(_paths(content)))
    place = content
    for key in parents:
        place = place[key]
    place[last] = data.draw(_TREES)
    folder = tmp_path_factory.mktemp("card")
    try:
        read_card(write_card(folder, content))
    except ModelCardError as error:
        assert error.code in ("model-card", "unsafe-model")


@given(content=st.binary(max_size=200))
def test_any_bytes_give_a_typed_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("card")
    (folder / "model.yaml").write_bytes(content)
    with pytest.raises(ModelCardError):
        read_card(folder)


def test_models_are_found_and_bad_ones_shown_with_their_reason(tmp_path: Path) -> None:
    write_card(tmp_path / "good", command_card(name="good"))
    write_card(tmp_path / "bad", command_card(name="bad", modality="US"))
    write_card(tmp_path / "bare", onnx_card(name="bare"))
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("no model")

    found = {one.name: one.reason for one in find_models([tmp_path, tmp_path / "absent"])}

    assert found == {
        "bad": "model card: modality: must be 'CT', 'MR' or 'PT'",
        "bare": "weights are missing: net.onnx",
        "empty": "model card cannot be read: No such file or directory",
        "good": "",
    }


def test_of_two_usable_models_of_one_name_none_is_used(tmp_path: Path) -> None:
    write_card(tmp_path / "one" / "a", command_card(name="twin"))
    write_card(tmp_path / "two" / "b", command_card(name="twin"))

    found = find_models([tmp_path / "one", tmp_path / "two"])

    assert [one.reason for one in found] == ["2 folders hold a model of this name"] * 2


def test_a_folder_that_is_named_twice_holds_each_model_once(tmp_path: Path) -> None:
    write_card(tmp_path / "models" / "a", command_card(name="one"))
    (tmp_path / "link").symlink_to(tmp_path / "models")
    found = find_models([tmp_path / "models", tmp_path / "link", tmp_path / "x" / ".." / "models"])
    assert [(one.name, one.reason) for one in found] == [("one", "")]


def test_installed_model_stands_for_the_packaged_one_without_weights(tmp_path: Path) -> None:
    write_card(tmp_path / "packaged" / "net", onnx_card(name="net"))
    installed = tmp_path / "site" / "net"
    write_card(installed, onnx_card(name="net", weights=[weights(installed, "net.onnx", b"\x08net")]))

    found = find_models([tmp_path / "packaged", tmp_path / "site"])

    assert [(one.folder, one.reason) for one in found] == [(installed, "")]


def test_packaged_models_are_whole() -> None:
    found = {one.name: one.reason for one in find_models([PACKAGED_MODELS])}

    assert found == {
        "brain_mr": "weights are missing: locate.onnx, segment.onnx",
        "rules_ct": "",
    }


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"summary": "Other words.", "limits": ["More."], "licence": "MIT", "memory": {"ram_mb": 99}}, True),
        ({"command": {"argv": ["/opt/run", "{inputs}", "{output}"], "time_limit_s": 5}}, True),
        ({"command": {"argv": ["run", "{inputs}", "{output}", "--fast"]}}, False),
        ({"version": "4"}, False),
        ({"regions": [region("Lung")]}, False),
        ({"weights": WEIGHTS}, False),
    ],
)
def test_digest_is_of_what_a_result_depends_on(tmp_path: Path, changes: Content, same: bool) -> None:
    content = command_card("run", "{inputs}", "{output}")
    one = read_card(write_card(tmp_path / "one", content))
    other = read_card(write_card(tmp_path / "other", dict(reversed((content | changes).items()))))
    assert (one.digest() == other.digest()) is same
