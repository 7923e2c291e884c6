"""Blocks of free ports on the loopback."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable
from pathlib import Path

from cluster.errors import ClusterError
from cluster.layout import LOOPBACK

_FIRST, _STEP = 20000, 64


def all_free(ports: Iterable[int]) -> bool:
    """Whether nobody listens on any of some ports."""
    for port in ports:
        with socket.socket() as probe:
            # As the daemons do: the leftovers of closed connections do not count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                return False
    return True


def answers(port: int) -> bool:
    """Whether somebody listens on a port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def free_block(length: int) -> int:
    """First of a row of free ports.

    Raises:
        ClusterError: There is none.
    """
    # Below the range from which the kernel gives ports to outgoing connections, which come and go.
    limit = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    bases = list(range(_FIRST, limit - length, max(_STEP, length)))
    # In any order, so that clusters that start at the same moment do not choose the same block.
    random.shuffle(bases)
    for base in bases:
        if all_free(range(base, base + length)):
            return base
    raise ClusterError(f"no row of {length} free ports between {_FIRST} and {limit}")
