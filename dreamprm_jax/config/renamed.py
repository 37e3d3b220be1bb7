"""Old names of setting values, accepted with a warning in this version."""

from __future__ import annotations

import warnings

RENAMED = {
    "hidden_fault": "undetected_fault",
    "hidden_fault_online": "undetected_fault_online",
    "product_normalised": "product_normalized",
}
FIELDS = ("train.arms", "train.labels.method", "evaluate.aggregator")  # settings that may have renamed values


def current_name(value: str, field: str) -> str:
    """The current name of a value. Warns if ``value`` is an old name."""
    name = RENAMED.get(value, value)
    if name != value:
        warnings.warn(
            f"{field}: {value!r} is now called {name!r}; the old name will not work in the next version",
            FutureWarning,
            stacklevel=2,
        )
    return name


def with_current_names(values: dict, prefix: str = "") -> dict:
    """Replaces old value names of ``FIELDS`` in nested settings."""
    renamed = {}
    for name, value in values.items():
        field = prefix + name
        if isinstance(value, dict):
            value = with_current_names(value, f"{field}.")
        elif field in FIELDS and isinstance(value, str):
            value = current_name(value, f"config.{field}")
        elif field in FIELDS and isinstance(value, (tuple, list)):
            value = tuple(current_name(item, f"config.{field}") for item in value)
        renamed[name] = value
    return renamed
