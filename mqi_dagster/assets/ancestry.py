"""What the present RT Dose of a beam was made from, whatever was materialised since."""

from collections.abc import Collection
from dataclasses import dataclass

import dagster as dg

from mqi_dagster.assets.lineage import resolve, store_place
from mqi_dagster.assets.raw_dose_files import RECORD_FILE, read_record
from mqi_dagster.delivery.summary import SUMMARY_NAME
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published

RAW_DOSE = "raw_dose"
RT_DOSE = "rt_dose"
TPS_FILE = "tps_file"


@dataclass(frozen=True, slots=True)
class Ancestry:
    """One beam's results, each made from the one before; files are verified by whoever reads them."""

    interpreted_csvs: Published
    """Its summary is verified."""
    tps_file: Published
    raw_dose: Published
    """Its record is verified."""
    rt_dose: Published


def ancestry(instance: dg.DagsterInstance, site: Site, key: str) -> Ancestry:
    """The present RT Dose of a beam and what it was made from.

    Raises:
        StoreError: One of them was never made or is gone.
    """
    case, beam = store_place(key)

    def made_from(asset: str, digest: object, only: Collection[str]) -> Published:
        return site.store.resolve(case, beam, asset, str(digest), only=only)

    dose = resolve(instance, site, RT_DOSE, key, only=())
    raw = made_from(RAW_DOSE, dose.meta[RAW_DOSE], (RECORD_FILE,))
    return Ancestry(
        interpreted_csvs=made_from("interpreted_csvs", read_record(raw).interpreted_csvs, (SUMMARY_NAME,)),
        tps_file=made_from(TPS_FILE, raw.meta[TPS_FILE], ()),
        raw_dose=raw,
        rt_dose=dose,
    )
