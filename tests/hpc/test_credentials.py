"""Keys and pinned hosts: looked at before anything is sent, and refused with a reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mqi_dagster.errors import ConfigurationError, UnreachableError
from mqi_dagster.hpc.credentials import pinned_name, read_known_hosts, read_private_key
from mqi_dagster.hpc.errors import CredentialError


def make_key(path: Path, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", path], check=True)
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key of this user."""
    return make_key(tmp_path / "key")


@pytest.fixture
def public(key: Path) -> str:
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def test_a_key_of_this_user_alone_is_read(key: Path) -> None:
    assert read_private_key(key).get_name() == "ssh-ed25519"
    key.chmod(0o400)
    assert read_private_key(key).can_sign()


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_key_of_any_usual_kind_is_read(tmp_path: Path, kind: str) -> None:
    # Not every ECDSA key is one that paramiko can read by itself.
    for number in range(8 if kind == "ecdsa" else 1):
        path = tmp_path / f"key{number}"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", path], check=True)
        key, public = read_private_key(path), path.with_suffix(".pub").read_text().split()
        assert (key.get_name(), key.get_base64()) == (public[0], public[1])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o620])
def test_a_key_that_others_can_read_is_refused_with_the_remedy(key: Path, mode: int) -> None:
    key.chmod(mode)
    with pytest.raises(CredentialError, match=rf"0{mode:o}\); chmod 600"):
        read_private_key(key)


def test_a_key_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="No such file"):
        read_private_key(tmp_path / "none")
    with pytest.raises(CredentialError, match="no file"):
        read_private_key(tmp_path)


def test_a_key_that_cannot_be_used_is_no_reason_to_wait(key: Path, tmp_path: Path) -> None:
    bad = {
        "public": key.with_suffix(".pub").read_bytes(),
        "empty": b"",
        "text": b"hello\n",
        "cut": key.read_bytes()[:150],
        "binary": bytes(range(256)),
        "locked": make_key(tmp_path / "locked", "secret").read_bytes(),
    }
    for name, content in bad.items():
        path = tmp_path / f"{name}.key"
        path.touch(0o600)
        path.write_bytes(content)
        with pytest.raises(CredentialError, match="passphrase") as raised:
            read_private_key(path)
        assert str(tmp_path) not in str(raised.value)
    assert issubclass(CredentialError, ConfigurationError)
    assert not issubclass(CredentialError, UnreachableError)


def test_a_host_is_pinned_by_its_name_and_port(tmp_path: Path, public: str) -> None:
    assert (pinned_name("login", 22), pinned_name("login", 2222)) == ("login", "[login]:2222")
    hosts = tmp_path / "known_hosts"
    hosts.write_text(f"# ours\n\nlogin,10.0.0.1 {public}\n[login]:2222 {public}\n")
    for name, port in (("login", 22), ("10.0.0.1", 22), ("login", 2222)):
        assert read_known_hosts(hosts, name, port).lookup(pinned_name(name, port)) is not None
    for name, port in (("login", 2223), ("other", 22), ("10.0.0.1", 2222)):
        with pytest.raises(CredentialError, match=r"hold no key of"):
            read_known_hosts(hosts, name, port)


def test_a_hashed_name_is_found(tmp_path: Path, public: str) -> None:
    hosts = tmp_path / "known_hosts"
    hosts.write_text(f"login {public}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", hosts], check=True, capture_output=True)
    assert "login" not in hosts.read_text()
    assert read_known_hosts(hosts, "login", 22).lookup("login") is not None


def test_known_hosts_that_cannot_be_read_are_refused(tmp_path: Path, public: str) -> None:
    with pytest.raises(CredentialError, match="No such file"):
        read_known_hosts(tmp_path / "none", "login", 22)
    hosts = tmp_path / "known_hosts"
    for damaged in (
        b"login ssh-ed25519 notbase64!!\n",
        b"\xff\xfe\x00",
        f"login {public[:-9]}\n".encode(),
        b"",
    ):
        hosts.write_bytes(damaged)
        with pytest.raises(CredentialError):
            read_known_hosts(hosts, "login", 22)
