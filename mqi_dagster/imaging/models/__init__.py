"""Segmentation models behind one contract: a card says what a model is, NIfTI goes in and comes out."""
