"""A throw-away cluster on this machine: real Slurm, real OpenSSH, nothing but the hardware simulated.

Tests and the demo submit to it what a site would submit to its own, and may kill every part of it.
"""

from cluster.cluster import Cluster
from cluster.configuration import cgroups_possible
from cluster.connection import Connection
from cluster.errors import ClusterError, NotPreparedError
from cluster.layout import ClusterSettings
from cluster.packages import install, missing_packages

__all__ = [
    "Cluster",
    "ClusterError",
    "ClusterSettings",
    "Connection",
    "NotPreparedError",
    "cgroups_possible",
    "install",
    "missing_packages",
]
