"""What every part of the settings is."""

from __future__ import annotations

from typing import Annotated, Any, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
REMOTE_PATH = r"(/[A-Za-z0-9_.+@=-]*[A-Za-z0-9_+@=-]){2,16}"
"""An absolute path of at least two parts in plain characters; no part is ``.`` or ``..``."""
VARIABLE_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,99}"
VARIABLE_VALUE = r"[A-Za-z0-9_./:+,@%=-]{0,1000}"
"""What a variable of a job may hold: nothing that a shell could mistake."""


class Section(BaseModel):
    """A part of the settings: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_section_is_absent(cls, content: Any) -> Any:
        # In YAML a section or list whose every line is commented out is a null, not a mistake.
        if not isinstance(content, dict):
            return content
        return {key: value for key, value in content.items() if value is not None or not cls._holds(key)}

    @classmethod
    def _holds(cls, key: object) -> bool:
        """Whether a key is a section, or a list or mapping of values."""
        field = cls.model_fields.get(key) if isinstance(key, str) else None
        if field is None:
            return False
        kind = field.annotation
        return get_origin(kind) in (dict, tuple) or (isinstance(kind, type) and issubclass(kind, Section))
