"""What pydantic finds wrong, in plain words."""

from __future__ import annotations

from pydantic import ValidationError

_PLAIN = {
    "missing": "is missing",
    "extra_forbidden": "is no key of it",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "too_long": "has too many parts",
    "string_type": "must be a text",
    "string_unicode": "must be a text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}


def first_problem(error: ValidationError) -> tuple[tuple[str | int, ...], str]:
    """Place of the first thing that is wrong, and what is wrong there."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":
        return first["loc"], str(first["ctx"]["error"])
    return first["loc"], _PLAIN.get(first["type"]) or first["msg"].replace("Input should be", "must be", 1)
