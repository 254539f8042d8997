"""How this process uses the memory it is given."""

import ctypes
import os
import sys


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next time, where it is GNU's; nothing elsewhere.

    It would give large blocks back to the system, and each training step would then have them handed out and zeroed again,
    page by page. What a process holds in the end is what it held at its peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_MAX, 0)


def peak_memory() -> float | None:
    """The most memory the process held so far, in GB; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e9 if sys.platform == "darwin" else 1e9 / 1024)
