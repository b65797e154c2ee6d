"""Durations for people."""


def duration(seconds: float) -> str:
    """Seconds as 1h02m, 4m10s or 12s."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 60}m{s % 60:02d}s" if s >= 60 else f"{s}s"
