"""Which HU table the beams of a case with a CT are simulated with."""

from mqi_dagster.assets.beam import require_unchanged
from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.dicom.scanner import read_scanner
from mqi_dagster.errors import DicomError, InfrastructureError, InputError, Where
from mqi_dagster.hu_table import HuTable
from mqi_dagster.resources.site import Site

_CT = Where(kind="CT")


def hu_table_of(site: Site, manifest: CaseManifest) -> HuTable | None:
    """The site's table for the scanner of the case's CT; None where nothing of ours is simulated in one.

    Raises:
        UnknownScannerError: No table is for it.
        ConfigurationError: The site's tables cannot be read, or two are for it.
        InputError: The CT has changed since the case was taken in.
    """
    profile = site.settings.engine_profile()
    images = manifest.ct_series
    if not (profile.patient_ct and profile.reads_beam_model and images):
        return None
    try:
        scanner = read_scanner(require_unchanged(images[0], "CT image"))
    except DicomError as error:
        raise InputError(error.message, where=_CT, first_cause=error.first_cause) from None
    except OSError as error:
        raise InfrastructureError(f"the CT cannot be read: {error.strerror}", where=_CT) from None
    return site.hu_tables.of(scanner, manifest.machine_id)
