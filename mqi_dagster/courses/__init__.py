"""Trees of DICOM files, indexed once and grouped into treatment courses, with reasons for each decision."""
