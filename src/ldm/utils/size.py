"""Sizes for people."""

GIB, MIB = 2**30, 2**20


def size(count: int | float) -> str:
    """Bytes as 1.50 GiB or, below that, 12.3 MiB."""
    return f"{count / GIB:,.2f} GiB" if count >= GIB else f"{count / MIB:,.1f} MiB"
