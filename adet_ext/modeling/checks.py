"""Checks of what a config asks of a model; errors name the key."""

from collections.abc import Collection, Mapping, Sequence

__all__ = ["check_choice", "check_features"]


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless the value of a key is one of its choices."""
    if value not in choices:
        *others, last = choices
        raise ValueError(f"{key} must be {', '.join(others)} or {last}; got {value!r}")


def check_features(key: str, names: Collection[str], features: Mapping[str, object], hint: str = "") -> None:
    """Raise ValueError unless a key names features, all of them the backbone's; ``hint`` says what to do."""
    missing = [name for name in names if name not in features]
    if missing or not names:
        raise ValueError(
            f"{key} must name features that the backbone returns, {', '.join(sorted(features))}; got "
            f"{missing or list(names)}{hint}"
        )
