"""The results on disk: digests, manifests, publishing."""
