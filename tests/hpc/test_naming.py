"""Names that may reach a cluster: plain ones, all below the root."""

from __future__ import annotations

import posixpath
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi_dagster.hpc.errors import PathRejectedError
from mqi_dagster.hpc.naming import JobFolder, checked_job_id, checked_name, job_name

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/a",
    "a..b",
    "-rf",
    ".hidden",
    "_x",
    "a b",
    "a\n",
    "a\x00",
    "$(id)",
    "`id`",
    "a;b",
    "a'b",
    'a"b',
    "a\\b",
    "~",
    "*",
    "홍길동",
    "a\u2028",
    "x" * 201,
    "a,b",
    "a|b",
]
NAMES = st.one_of(
    st.sampled_from(HOSTILE),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True),
    st.text(max_size=6),
)
ROOTS = st.one_of(
    st.sampled_from(
        ["/", "/x", "/srv/moqui", "/srv/../etc", "/srv/.", "srv/moqui", "/srv/moqui/", "//srv/x", ""]
    ),
    st.from_regex(r"(/[A-Za-z0-9_.+@=-]{1,4}){1,4}", fullmatch=True),
    st.text(max_size=8),
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_of_anything_but_plain_characters_is_refused(name: str) -> None:
    with pytest.raises(PathRejectedError):
        checked_name(name, "a name")
    with pytest.raises(PathRejectedError):
        job_name(name)
    with pytest.raises(PathRejectedError):
        JobFolder("/srv/moqui", ("case", name), "d1-1")
    with pytest.raises(PathRejectedError):
        JobFolder("/srv/moqui", ("case",), name)


def test_a_refusal_does_not_repeat_the_name() -> None:
    with pytest.raises(PathRejectedError) as raised:
        checked_name("Hong^Gildong", "a beam's key")
    assert "Hong" not in str(raised.value)


@pytest.mark.parametrize("name", ["a", "P1.fx0001__b01", "d1-1", "0", "x" * 200, "a.-_"])
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert checked_name(name, "a name") == name
    assert job_name(f"b{name}"[:200]) == f"moqui_b{name}"[:206]


@pytest.mark.parametrize(
    "root",
    [
        "",
        "/",
        "/srv",
        "srv/x",
        "/srv/moqui/",
        "/srv/..",
        "/srv/../etc",
        "/srv/./x",
        "//srv/x",
        "/srv/a b",
        "/srv/x\n",
    ],
)
def test_a_root_is_an_absolute_path_of_two_plain_names_or_more(root: str) -> None:
    with pytest.raises(PathRejectedError):
        JobFolder(root, ("case", "b01"), "d1-1")


def test_a_folder_and_its_parts_have_their_paths() -> None:
    folder = JobFolder("/srv/moqui", ("P1.fx0001", "b01"), "d1-1")
    assert str(folder.path) == "/srv/moqui/P1.fx0001/b01/d1-1"
    assert str(folder.part) == "/srv/moqui/P1.fx0001/b01/.d1-1.part"
    assert str(folder.start("100", 2)) == "/srv/moqui/P1.fx0001/b01/d1-1/starts/100-2"
    assert folder.below == "P1.fx0001/b01"
    with pytest.raises(PathRejectedError):
        JobFolder("/srv/moqui", (), "d1-1")


@given(
    root=ROOTS,
    parents=st.lists(NAMES, max_size=3),
    key=NAMES,
    job_id=st.sampled_from(["100", "../1", "1;x", ""]),
)
def test_no_folder_lies_anywhere_but_below_its_root(
    root: str, parents: list[str], key: str, job_id: str
) -> None:
    try:
        folder = JobFolder(root, tuple(parents), key)
    except PathRejectedError:
        return
    paths = [str(folder.path), str(folder.part)]
    try:
        paths.append(str(folder.start(job_id, 0)))
    except PathRejectedError:
        assert job_id != "100"
    for path in paths:
        assert posixpath.normpath(path) == path
        assert path.startswith(f"{posixpath.normpath(root)}/")
        assert re.fullmatch(r"[A-Za-z0-9_.+@=/-]+", path)
        assert len(path.split("/")) > len(root.split("/")) + 1


@pytest.mark.parametrize("job_id", ["", "-1", "1 2", "1\n", "1;id", "1_1", "0x1", "١", "12345678901"])
def test_an_id_is_a_number(job_id: str) -> None:
    with pytest.raises(PathRejectedError):
        checked_job_id(job_id)
    assert checked_job_id("4711") == "4711"
