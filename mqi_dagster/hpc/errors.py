"""What goes wrong between this machine and another one, and whether trying again helps.

Whatever is an `UnreachableError` makes a beam wait, never fail. The others name what a person has to mend.
"""

from __future__ import annotations

from mqi_dagster.errors import ConfigurationError, MqiError, Retry, UnreachableError


class ConnectError(UnreachableError):
    """No connection stands: refused, reset, no answer, or the circuit breaker is open. Nothing was sent."""

    code = "connect-failed"


class ConnectionLostError(UnreachableError):
    """A connection went away under a call: whether the other side did what was asked is unknown."""

    code = "connection-lost"


class CommandTimeoutError(ConnectionLostError):
    """The other side did not answer in time; what was started there goes on."""

    code = "command-timeout"


class SchedulerUnavailableError(UnreachableError):
    """Slurm's controller, its authentication or its database does not answer."""

    code = "scheduler-unavailable"


class HostKeyError(MqiError):
    """The host shows another key than the pinned one: nothing was sent to it."""

    code = "host-key"


class AuthenticationError(MqiError):
    """The host does not let this user in with this key."""

    code = "authentication"


class CredentialError(ConfigurationError):
    """The key file or the known hosts cannot be used as they are."""

    code = "credentials"


class SubmitRejectedError(MqiError):
    """Slurm does not take the job: partition, account, QOS or resources are wrong."""

    code = "submit-rejected"


class RemoteCommandError(MqiError):
    """A command on the host ended with an error of its own.

    Args:
        message: What was tried, and the last words of the command.
        exit_code: Its exit code.
    """

    code = "remote-command"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class AnswerError(MqiError):
    """A program on the host answered, and what it says is not understood."""

    code = "remote-answer"


class PathRejectedError(MqiError):
    """A remote path does not lie where it may, or what lies there is not ours."""

    code = "path-rejected"


class DiskFullError(UnreachableError):
    """The host has no space or no quota left: beams wait until somebody has made room."""

    code = "remote-disk-full"


class HostFilesError(UnreachableError):
    """A file system of the host does not answer now (a file server is away, a disk is in trouble)."""

    code = "remote-files"


class IntegrityError(MqiError):
    """What arrived is not what was sent."""

    code = "integrity"
    retry = Retry.FOREVER
