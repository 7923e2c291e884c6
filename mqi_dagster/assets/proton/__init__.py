"""The way of a beam from its records to the hand-over, one file a station."""

OWNERS = ["team:medical-physics"]
CASE = "case"
"""Group of the assets of a case."""
BEAM = "beam"
"""Group of the assets of a beam."""
