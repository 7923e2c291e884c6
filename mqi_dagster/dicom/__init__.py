"""DICOM files of others: the one way to read them, and what each of them is."""
