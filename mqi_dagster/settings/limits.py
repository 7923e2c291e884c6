"""Limits of what was delivered against what was planned: MU of beams, layers and spots, positions."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from mqi_dagster.settings.section import Section


class MuRatioLimits(Section):
    """Limits of a beam's MU, beyond which its case is refused at intake."""

    mu_ratio_minimum: float = Field(0.9, description="Least logged/planned MU of a beam.")
    mu_ratio_maximum: float = Field(1.1, description="Greatest logged/planned MU of a beam.")

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        if self.mu_ratio_minimum >= self.mu_ratio_maximum:
            raise ValueError("mu_ratio_minimum must be below mu_ratio_maximum")
        return self


Limit = Annotated[float, Field(gt=0)]


class DeliveryLimits(Section):
    """Limits of the check `delivery`: how far a layer may be from its plan and still be "as planned".

    Defaults: the spot position tolerances of AAPM TG-224 (1 mm relative, 2 mm absolute; Arjomandy et al.,
    Med Phys 46, 2019, e678) and its 3 % for the daily output; for scatter and single spots the limits that
    log analysis of line scanning uses (SD 1.5 mm, maximum 3 mm). IEC 60601-2-64 asks the machine to stop
    at limits of its own and gives no numbers for them. A machine file may set each limit for its machine.
    """

    position_mean_mm: Limit = Field(1.0, description="Mean of delivered - planned in x or y.")
    position_sd_mm: Limit = Field(1.5, description="Standard deviation of the same.")
    position_p95_mm: Limit = Field(2.0, description="95th percentile of the same, without sign.")
    position_maximum_mm: Limit = Field(3.0, description="Mean difference of any one spot in x or y.")
    layer_mu_percent: Limit = Field(
        3.0,
        description="MU of a layer against plan, beside the beam's other layers (from three on); and the "
        "median of these.",
    )
    spot_mu_percent: Limit = Field(20.0, description="MU of a spot against plan, beside its layer's others.")
    extra_percent: Limit = Field(0.1, description="MU where no spot was planned, of the layer's.")
    beam_off_percent: Limit = Field(0.5, description="Counts while the beam was not on, of the layer's.")
