"""Delivered proton beams become verified DICOM RT Doses, as Dagster assets."""

__version__ = "0.1.0"
