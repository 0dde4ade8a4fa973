"""A pytest plugin for mutation runs: quick tests first, and as few examples as MUTATION_EXAMPLES says.

Hypothesis draws the same examples each time, whatever a test asks for, so that two runs agree.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

_SETTINGS = settings(
    max_examples=int(os.environ.get("MUTATION_EXAMPLES", "10")),
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
_GIVEN = "_hypothesis_internal_use_settings"
"""Where hypothesis keeps the settings of a test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Most mutants fall to a plain test; a property is only asked about the others."""
    drawn = [item for item in items if hasattr(getattr(item, "function", None), _GIVEN)]
    for item in drawn:
        setattr(item.function, _GIVEN, _SETTINGS)  # type: ignore[attr-defined]
    items.sort(key=lambda item: item in drawn)
