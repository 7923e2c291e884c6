"""Weights: the ones that the card names, and none that run code in our own process."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest

from mqi_dagster.imaging.models.card import Model, read_model
from mqi_dagster.imaging.models.model_errors import ModelCardError, UnsafeModelError
from mqi_dagster.imaging.models.weights import verify_weights, weights_found
from tests.imaging.models.model_folders import Content, card, command_card, weights, write_card

ONNX = b"\x08\x08\x12\x04test" + bytes(100)


def onnx_model(folder: Path, name: str, content: bytes) -> Model:
    """A model of one network with this content."""
    entry = weights(folder, name, content)
    network = {"weights": name, "spacing_mm": [1, 1, 1], "labels": [0, 1]}
    return read_model(write_card(folder, card("onnx", {"network": network}, weights=[entry])))


def archive(member: str) -> bytes:
    """A zip as torch writes it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("archive/version", "3")
        made.writestr(member, b"content")
    return stream.getvalue()


class Trap:
    """What a pickle can do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("run",))


def test_right_weights_give_their_digests(tmp_path: Path) -> None:
    model = onnx_model(tmp_path, "net.onnx", b"\x08\x08")
    assert verify_weights(model) == {
        "net.onnx": "0b57459772db2f3f6986a135824545af8690c536a865454c3c664767dc2b73f0"
    }


def test_weights_that_are_others_than_the_card_names_are_refused(tmp_path: Path) -> None:
    model = onnx_model(tmp_path, "net.onnx", ONNX)
    (tmp_path / "net.onnx").write_bytes(ONNX + b"\0")
    with pytest.raises(
        UnsafeModelError, match=r"model made: weights net.onnx have SHA-256 [0-9a-f]{8}…, the card"
    ):
        verify_weights(model)


def test_new_card_is_told_what_its_weights_are(tmp_path: Path) -> None:
    weights(tmp_path, "fold_0/checkpoint.pth", b"\x08\x08")
    write_card(tmp_path, command_card())
    (found,) = weights_found(tmp_path)
    assert (found.file, found.sha256[:8]) == ("fold_0/checkpoint.pth", "0b574597")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    model = onnx_model(tmp_path, "net.onnx", ONNX)
    (tmp_path / "net.onnx").unlink()
    with pytest.raises(ModelCardError, match=r"weights net\.onnx cannot be read: No such file"):
        verify_weights(model)


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.pkl", "net.CKPT"])
def test_formats_of_pickles_are_refused_by_their_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeModelError, match="is a format of pickled Python, which runs code"):
        verify_weights(onnx_model(tmp_path, name, ONNX))


@pytest.mark.parametrize("member", ["archive/data.pkl", "archive/constants.pkl", "data.pkl"])
def test_archive_with_a_pickle_is_refused_under_any_name(tmp_path: Path, member: str) -> None:
    with pytest.raises(UnsafeModelError, match=f"it is an archive with the pickle {member}"):
        verify_weights(onnx_model(tmp_path, "net.onnx", archive(member)))


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_is_refused_under_any_name(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"weights": [1.5, 2.5], "trap": Trap()}, protocol)
    with pytest.raises(UnsafeModelError, match="its content is a pickle"):
        verify_weights(onnx_model(tmp_path, "net.onnx", content))


def test_program_with_an_environment_of_its_own_may_have_any_format(tmp_path: Path) -> None:
    entry: Content = weights(tmp_path, "net.pth", archive("archive/data.pkl"))
    model = read_model(write_card(tmp_path, command_card(weights=[entry])))
    assert list(verify_weights(model)) == ["net.pth"]
