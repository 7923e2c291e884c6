"""Clusters reached by SSH: transport, staging, Slurm, and the executor made of them. Free of Dagster."""
