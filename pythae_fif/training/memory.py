"""Memory that a process keeps for its next step."""

__all__ = ["keep_freed_memory"]

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def keep_freed_memory() -> bool:
    """Tells the C library never to give memory back to the operating system, in this process.

    A step frees and allocates the same activations again; above 128 KiB each would come fresh
    from the system, page by page. Peak memory stays the same, memory between the peaks does not.

    Returns:
        Whether the C library could be told: it is glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
