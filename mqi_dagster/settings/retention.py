"""How long a site keeps what it does not need any more."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mqi_dagster.settings.section import Section

Days = Annotated[float, Field(ge=1)]


class SiteRetention(Section):
    """What `mqi retention` removes, each after so many days; nothing where no number stands."""

    daily: bool = Field(False, description="Do it once a day without being told, by the sensor `retention`.")
    superseded_days: Days | None = Field(
        None,
        description="Results of a beam that another result has replaced and nothing present was made from.",
    )
    case_days: Days | None = Field(
        None, description="All results and partitions of a concluded case; the hand-over stays."
    )
    record_days: Days | None = Field(
        None,
        description="Runs of a case and all that Dagster has recorded of them, counted from the removal of"
        " its results by `case_days`.",
    )
    engine_log_days: Days | None = Field(90.0, description="What engines have printed.")
    run_output_days: Days | None = Field(30.0, description="What runs have printed; their events stay.")
