"""Delivered proton beams become verified DICOM RT Doses, as Dagster assets."""

__version__ = "0.2.0"
