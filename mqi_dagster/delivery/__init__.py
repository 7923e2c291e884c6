"""What the machine delivered: reading its files, grouping them into fractions, checking them, and
interpreting the records into the engine's CSVs."""
