"""The pipelines of the platform."""

from mqi_dagster.assets.proton.pipeline import PROTON
from mqi_dagster.assets.radiotherapy.pipeline import RADIOTHERAPY
from mqi_dagster.assets.segmentation.pipeline import SEGMENTATION

PIPELINES = (PROTON, RADIOTHERAPY, SEGMENTATION)
