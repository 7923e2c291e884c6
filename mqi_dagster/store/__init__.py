"""The results on disk: digests, manifests, publishing."""

from mqi_dagster.files import sha256_file, write_whole
from mqi_dagster.store.digests import canonical_json, digest_of
from mqi_dagster.store.published import Manifest, Published, ResultFile
from mqi_dagster.store.store import LAYOUT, Store

__all__ = [
    "LAYOUT",
    "Manifest",
    "Published",
    "ResultFile",
    "Store",
    "canonical_json",
    "digest_of",
    "sha256_file",
    "write_whole",
]
