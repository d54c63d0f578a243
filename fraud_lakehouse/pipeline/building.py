"""One entry of a file into its typed object, or its mistakes with their lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fraud_lakehouse.pipeline.document import Document
from fraud_lakehouse.pipeline.mistakes import nearest, shown
from fraud_lakehouse.pipeline.streams import CURRENCY_FORMS
from fraud_lakehouse.pipeline.values import Entry

_FORMS = ("[key]", *CURRENCY_FORMS)
"""Parts of an error's location that name a form of a value, and are no keys of the file."""
T = TypeVar("T", bound=Entry)


def build(document: Document, name: str, model: type[T], defaults: Mapping[str, Any] | None = None) -> T | None:
    """The typed object of an entry; None where it has mistakes, which the document then has.

    Args:
        defaults: values of keys that the entry does not have.
    """
    values = document.values[name]
    if not isinstance(values, dict):
        keys = ", ".join(key for key, field in _keys(model).items() if field.is_required() and key != "name")
        document.report((name,), f"found {shown(values)}, expected a mapping with {keys}")
        return None
    missing = {key: value for key, value in (defaults or {}).items() if values.get(key) is None}
    try:
        return model.model_validate({**values, **missing, "name": name})
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            _report(document, name, model, problem)
        return None


def check_own_names(document: Document) -> None:
    """Report entries, entities and fields that have a name besides their own key."""
    for at in document.lines:
        depth = len(at)
        if at[-1] == "name" and (
            depth == 2 or (depth == 4 and at[1] == "entities") or (depth == 6 and at[3] == "fields")
        ):
            document.report(at, "unknown key, expected none: the key above it is the name")


def _report(document: Document, name: str, model: type[Entry], problem: ErrorDetails) -> None:
    parts: list[int | str] = []
    for part in problem["loc"]:
        if part not in _FORMS or (name, *parts, part) in document.lines:
            parts.append(part)
    owner, field = _declared(model, parts)
    at = (name, *parts)
    if problem["type"] == "too_short" and problem["input"]:
        return  # its items have mistakes
    if problem["type"] == "missing":
        expected = field.description if field is not None and field.description else "a value"
        document.report(at[:-1], f"the key {shown(at[-1])} is missing, expected {expected}")
    elif problem["type"] == "extra_forbidden":
        keys = [key for key in _keys(owner) if key != "name"]
        document.report(at, f"unknown key, expected one of {', '.join(keys)}{nearest(parts[-1], keys)}")
    elif problem["type"] == "value_error":
        document.report(document.existing(at), str(problem["ctx"]["error"]))
    else:
        expected = field.description if field is not None and field.description else "a text"
        if problem["type"] == "string_type" and isinstance(problem["input"], int | float):
            expected += " (in quotes, as it reads as a number)"
        document.report(document.existing(at), f"found {shown(problem['input'])}, expected {expected}")


def _keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a model as files spell them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _declared(model: type[BaseModel], parts: list[int | str]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The model that a location's last key is one of, and what it declares for it."""
    owner: type[BaseModel] = model
    field: FieldInfo | None = None
    position = 0
    while position < len(parts):
        field = _keys(owner).get(str(parts[position]))
        position += 1
        inner = next(_models(field.annotation), None) if field is not None else None
        if field is not None and inner is not None and position < len(parts):
            owner = inner
            position += get_origin(field.annotation) in (dict, tuple)  # past a name or an index
    return owner, field


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
