"""What goes wrong with a segmentation model."""

from __future__ import annotations

from mqi_dagster.errors import ConfigurationError, InputError, MqiError, Retry, Where

LONGEST_LOG = 20_000


class ModelCardError(ConfigurationError):
    """A model's card is wrong, or its folder does not hold what the card says."""

    code = "model-card"


class UnsafeModelError(ModelCardError):
    """A model is refused: its weights are others or could run code, or it asks for the network."""

    code = "unsafe-model"


class ModelInputError(InputError):
    """The images are not what the model's card asks for."""

    code = "model-input"


class ModelError(MqiError):
    """A model failed, or what it left behind is not a label map of its regions on the grid of its images.

    Args:
        message: What is wrong.
        exit_code: Of its program, negative for the signal that ended it; None where it has none or hung.
        log: The end of what it printed, which may name paths: for whoever judges the failure, not for a log.
    """

    code = "model"
    retry = Retry.FROM_BUDGET

    def __init__(
        self,
        message: str,
        *,
        where: Where | None = None,
        exit_code: int | None = None,
        log: str = "",
    ) -> None:
        super().__init__(message, where=where)
        self.exit_code = exit_code
        self.log = log[-LONGEST_LOG:]


class ModelTimeoutError(ModelError):
    """A model ran longer than the limit of its card and was ended."""

    code = "model-timeout"
