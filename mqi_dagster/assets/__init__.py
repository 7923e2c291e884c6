"""WHAT exists: stations and their checks, one folder a pipeline."""

import warnings

from dagster import PreviewWarning

# Partitioned checks work and are held by our tests; the warning would greet everybody who starts a command.
warnings.filterwarnings("ignore", category=PreviewWarning, message=".*partitions_def on an AssetCheckSpec.*")
