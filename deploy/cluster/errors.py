"""What can go wrong with the cluster, in words for whoever typed the command."""

from __future__ import annotations


class ClusterError(Exception):
    """A part of the cluster did not do what it was told."""


class NotPreparedError(ClusterError):
    """This machine or this user is not ready for a cluster; the text says what to do."""
