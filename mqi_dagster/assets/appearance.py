"""How the assets look in Dagster's pages."""

OWNERS = ["team:medical-physics"]
CASE = "case"
"""Group of the assets of a case."""
BEAM = "beam"
"""Group of the assets of a beam."""
