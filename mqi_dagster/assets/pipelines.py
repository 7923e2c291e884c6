"""The pipelines of the platform."""

from mqi_dagster.assets.proton.pipeline import PROTON

PIPELINES = (PROTON,)
