"""Dose grids, their profiles, and the DICOM RT Dose: written, and read back."""
