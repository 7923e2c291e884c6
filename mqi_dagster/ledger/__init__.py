"""The ledger: what Dagster cannot hold, in one small database."""
