"""JSON Schemas that callers give: whether one is valid, and whether a value matches it.

A schema is a program of a stranger: it may recurse, overflow, refer to what is not there. The library is loaded at
first use.
"""

from __future__ import annotations

from typing import Any

import orjson

from orchestrator.model import JsonObject


def json_in(text: str) -> Any:
    """An answer as JSON, also from inside a fenced block; None if it is none."""
    body = text.strip()
    if body.startswith("```"):
        body = body.partition("\n")[2].rpartition("```")[0]
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def schema_fault(schema: JsonObject) -> str | None:
    """What is wrong with a JSON Schema itself; None if nothing is."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        return f"{error.json_path}: {error.message[:300]}"
    except Exception as fault:  # noqa: BLE001  it may do anything
        return f"$: it cannot be read ({type(fault).__name__}: {fault})"
    return None


def mismatch(schema: JsonObject, value: Any) -> str | None:
    """Why the value does not match the schema, where it does not; None if it does."""
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        # an explicit registry: the default one would fetch references from the network
        validator = validator_for(schema)(schema, registry=Registry())
        error = next(iter(validator.iter_errors(value)), None)
    except Unresolvable as missing:
        return f"output_schema refers to something it does not contain: {missing}"
    except Exception as fault:  # noqa: BLE001  it may do anything
        return f"output_schema cannot be applied: {type(fault).__name__}"
    return f"the output does not match output_schema at {error.json_path}: {error.message[:500]}" if error else None
