"""What is used of Dagster's code server that its public interface does not offer.

Apart from `dagster_internals`, since whoever imports this imports a gRPC server;
`tests/test_dagster_internals.py` says of each name what is relied upon.
"""

from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import FuturesAwareThreadPoolExecutor
from dagster._grpc.server import DagsterApiServer, DagsterGrpcServer
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers

__all__ = [
    "DagsterApiServer",
    "DagsterGrpcServer",
    "FuturesAwareThreadPoolExecutor",
    "LoadableTargetOrigin",
    "configure_loggers",
    "setup_interrupt_handlers",
]
