"""Delivered proton beams become verified DICOM RT Doses, as Dagster assets."""
