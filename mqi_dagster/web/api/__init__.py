"""The programming interface ``/api/v1``: the same rights and the same operations as the pages."""
