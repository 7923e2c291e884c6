"""The pipelines of the platform."""

from mqi_dagster.assets.proton.pipeline import PROTON
from mqi_dagster.assets.radiotherapy.pipeline import RADIOTHERAPY

PIPELINES = (PROTON, RADIOTHERAPY)
