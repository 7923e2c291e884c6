"""What the exit status of a command says."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The statuses of every command, so that scripts may rely on them."""

    DONE = 0
    """Done; what was looked at is right."""
    FAILED = 1
    """Refused or failed, with one line on standard error; or what was looked at is wrong: `mqi case check` or
    `mqi doctor` found a fault, `mqi validate` a wrong key, a case of `mqi case run` or a course of
    `mqi course run` failed, something that `mqi case cancel` was to end goes on,
    a receiver of `mqi notify --test` took nothing."""
    USAGE = 2
    """An option or argument is not understood."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""
