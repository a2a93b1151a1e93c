"""Durations as people read them."""

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """Format seconds: 42 s, 4 min 07 s, 3 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
