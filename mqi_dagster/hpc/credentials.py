"""Key file and known hosts, looked at before anything is sent."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from paramiko.hostkeys import InvalidHostKey
from paramiko.pkey import UnknownKeyType

from mqi_dagster.hpc.errors import CredentialError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_private_key(path: Path) -> paramiko.PKey:
    """The private key of a file of this user that nobody else can read.

    Raises:
        CredentialError: It is missing, of another owner, open to others, or no key that can be used.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise CredentialError(f"the key file cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise CredentialError("the key file is no file")
    if found.st_uid not in (os.geteuid(), 0):
        raise CredentialError("the key file belongs to another user")
    if found.st_mode & _OTHERS:
        raise CredentialError(
            f"the key file can be read by others (mode {stat.S_IMODE(found.st_mode):04o}); chmod 600"
        )
    try:
        # paramiko cannot read every ECDSA key that ssh-keygen makes.
        return _ecdsa_key(path) or paramiko.PKey.from_path(str(path))
    except OSError as error:
        raise CredentialError(f"the key file cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnknownKeyType, paramiko.SSHException):
        raise CredentialError("the key file holds no private key without a passphrase") from None


def _ecdsa_key(path: Path) -> paramiko.ECDSAKey | None:
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, EllipticCurvePrivateKey):
        return None
    return paramiko.ECDSAKey(vals=(key, key.public_key()))


def read_known_hosts(path: Path, host: str, port: int) -> paramiko.HostKeys:
    """The pinned keys of a file, among them one of the host.

    Raises:
        CredentialError: The file cannot be read, or holds no key of this host.
    """
    keys = paramiko.HostKeys()
    try:
        keys.load(str(path))
    except OSError as error:
        raise CredentialError(f"the known hosts cannot be read: {error.strerror}") from None
    except (InvalidHostKey, ValueError):
        raise CredentialError("the known hosts are damaged: a line holds no key") from None
    if keys.lookup(pinned_name(host, port)) is None:
        raise CredentialError(
            f"the known hosts hold no key of {pinned_name(host, port)}; ask the host's administrator for it"
        )
    return keys


def pinned_name(host: str, port: int) -> str:
    """The name under which known hosts keep the key of a host."""
    return host if port == 22 else f"[{host}]:{port}"
