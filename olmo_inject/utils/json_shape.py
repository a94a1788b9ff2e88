"""Check keys and types of values read from a JSON file."""

from __future__ import annotations

from typing import Any

from olmo_inject.errors import UserError

NUMBER = (float, int)


def check_shape(value: Any, shape: Any, where: str) -> None:
    """Check that a value has the given shape.

    Args:
        value: read from a JSON file.
        shape: a type; None; a tuple of alternative shapes; a list with the shape of every entry; or a dict, either
            `{str: shape}` for any keys, or the shapes of required keys and, with `?` at the end, of optional keys.
        where: the file and the key, for messages.

    Raises:
        UserError: a key is missing or wrong; the message names the first one.
    """
    if isinstance(shape, tuple):
        if not any(_fits(value, alternative, where) for alternative in shape):
            raise UserError(f"{where} is damaged: it must be {' or '.join(map(_word, shape))}")
    elif isinstance(shape, dict):
        _check_keys(value, shape, where)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise UserError(f"{where} is damaged: it must be a list")
        for number, entry in enumerate(value):
            check_shape(entry, shape[0], f"{where}: {number}")
    elif value is not None if shape is None else type(value) is not shape:  # not isinstance: a bool is not an int here
        raise UserError(f"{where} is damaged: it must be {_word(shape)}")


def _check_keys(value: Any, shape: dict[Any, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{where} is damaged: it must hold keys and values")
    if str in shape:
        for key, entry in value.items():
            check_shape(entry, shape[str], f"{where}: {key}")
        return
    for name, inner in shape.items():
        key = name.removesuffix("?")
        if key in value:
            check_shape(value[key], inner, f"{where}: {key}")
        elif key == name:
            raise UserError(f"{where} is damaged: {key} is missing")


def _fits(value: Any, shape: Any, where: str) -> bool:
    try:
        check_shape(value, shape, where)
    except UserError:
        return False
    return True


def _word(shape: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", None: "null", list: "a list"}
    return words.get(shape, "keys and values") if not isinstance(shape, dict | list) else "keys and values"
