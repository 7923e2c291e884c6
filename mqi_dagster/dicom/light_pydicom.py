"""pydicom as a process loads it that is to start at once."""

import sys


def load_pydicom() -> None:
    """Load pydicom without `requests`, which it takes for the download of its own test files alone."""
    if "requests" in sys.modules or "pydicom" in sys.modules:
        return
    # None makes its import fail, which pydicom provides for; whoever imports it later gets it.
    sys.modules["requests"] = None  # type: ignore[assignment]
    try:
        import pydicom  # noqa: F401
    finally:
        del sys.modules["requests"]
