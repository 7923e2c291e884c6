"""The volumes of a segmentation as a DICOM Structured Report (PS3.16 TID 1500), by highdicom.

The same inputs give the same bytes: UIDs come from the digest, dates are those of the images.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset

from mqi_dagster.dicom.own_objects import MANUFACTURER, derived_uid
from mqi_dagster.dicom.patient_study import study_id
from mqi_dagster.dicom.reading import decoding, read_dicom
from mqi_dagster.errors import InfrastructureError, Where
from mqi_dagster.files import write_whole
from mqi_dagster.imaging.segmentation_files import SegmentedRegion
from mqi_dagster.imaging.segmentation_object import Algorithm
from mqi_dagster.imaging.source_images import SourceImages

_WHERE = Where(kind="measurement report")
_DEVICE = CodedConcept("121007", "DCM", "Device")
_VOLUME = CodedConcept("118565006", "SCT", "Volume")
_CUBIC_MILLIMETRE = CodedConcept("mm3", "UCUM", "cubic millimeter")
_PROCEDURES = {
    "CT": CodedConcept("77477000", "SCT", "Computed tomography"),
    "MR": CodedConcept("113091000", "SCT", "Magnetic resonance imaging"),
    "PT": CodedConcept("82918005", "SCT", "Positron emission tomography"),
}


def write_measurement_report(
    path: Path,
    images: SourceImages,
    segmentation: Path,
    regions: tuple[SegmentedRegion, ...],
    algorithm: Algorithm,
    digest: str,
) -> None:
    """Write a report of the volume of each segment of a segmentation [mm³].

    Args:
        path: Where; the folder exists. The file appears whole, or not at all.
        images: What was segmented.
        segmentation: The SEG that the report refers to; written by `write_segmentation`.
        regions: What its segments are, in their order.
        algorithm: What has made them.
        digest: Digest of the asset, 64 hexadecimal digits: every UID is derived from it.

    Raises:
        DicomError: An object lacks an element.
        InfrastructureError: The disk refuses.
    """
    seg = read_dicom(segmentation, of_ours=True)
    # The warnings of the libraries quote values, and the values of the images are identity.
    with warnings.catch_warnings(action="ignore"), decoding():
        made = Comprehensive3DSR(
            evidence=[*images.headers, seg],
            content=_content(images, seg, regions, algorithm, digest)[0],
            series_instance_uid=derived_uid(digest, "report series"),
            series_number=2,
            sop_instance_uid=derived_uid(digest, "report"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            is_final=False,
            is_verified=False,
        )
        made.StudyID = study_id(images.headers[0])
        date, time = images.date_and_time
        for kind in ("InstanceCreation", "Content", "Series"):
            setattr(made, f"{kind}Date", date)
            setattr(made, f"{kind}Time", time or "000000")
        # The last item is highdicom's own, with the moment of now.
        del made.ContributingEquipmentSequence[-1].ContributionDateTime
        buffer = BytesIO()
        made.save_as(buffer)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise InfrastructureError(f"it cannot be written: {error.strerror}", where=_WHERE) from None


def _content(
    images: SourceImages,
    seg: Dataset,
    regions: tuple[SegmentedRegion, ...],
    algorithm: Algorithm,
    digest: str,
) -> MeasurementReport:
    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid(MANUFACTURER, "device"), name=MANUFACTURER, manufacturer_name=MANUFACTURER
    )
    family = CodedConcept(algorithm.family.value, algorithm.family.scheme, algorithm.family.meaning)
    groups = [
        VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(
                uid=derived_uid(digest, f"segment {number}"), identifier=region.tg263 or region.name
            ),
            referenced_segment=ReferencedSegment(
                seg.SOPClassUID,
                seg.SOPInstanceUID,
                number,
                source_series=SourceSeriesForSegmentation(images.headers[0].SeriesInstanceUID),
            ),
            finding_type=CodedConcept(*region.code),
            finding_category=CodedConcept(*region.category),
            algorithm_id=AlgorithmIdentification(algorithm.name, algorithm.version, family=family),
            measurements=[Measurement(_VOLUME, round(region.volume_cm3 * 1000, 3), _CUBIC_MILLIMETRE)],
        )
        for number, region in enumerate(regions, start=1)
    ]
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=ObserverContext(_DEVICE, device)),
        procedure_reported=_PROCEDURES[str(images.headers[0].Modality)],
        imaging_measurements=groups,
    )
