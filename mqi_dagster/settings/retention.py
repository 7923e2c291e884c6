"""How long a site keeps what it does not need any more."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from mqi_dagster.settings.section import Section

Days = Annotated[float, Field(ge=1)]


class SiteRetention(Section):
    """What `mqi retention` removes, each after so many days; nothing where no number stands."""

    daily: bool = Field(False, description="Do it once a day without being told, by the sensor `retention`.")
    superseded_days: Days | None = Field(
        None,
        description="Results of a beam or course that another result has replaced and nothing present was"
        " made from.",
    )
    case_days: Days | None = Field(
        None,
        description="All results and partitions of a concluded case or course; the hand-over and the DICOM"
        " tree stay.",
    )
    record_days: Days | None = Field(
        None,
        description="Runs of a case or course with their events and output, counted from the removal of its"
        " results by `case_days`.",
    )
    engine_log_days: Days | None = Field(90.0, description="What engines have printed.")
    run_output_days: Days | None = Field(30.0, description="What runs have printed; their events stay.")

    @model_validator(mode="after")
    def _records_after_results(self) -> Self:
        if self.record_days is not None and self.case_days is None:
            raise ValueError("record_days counts from the removal by case_days, which is not set")
        return self
