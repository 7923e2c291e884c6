"""Trees of DICOM files and the courses in them."""
