"""The ledger's revisions, one file each."""
