"""JSON out of files of others, whatever is wrong with it said in one sentence with the place."""

import json
from typing import Any


def parse_json(text: str, place: str, form: str, *, with_line: bool = False) -> Any:
    """What a JSON text holds.

    Args:
        text: the text.
        place: file and line, for messages.
        form: what the text should be, which ends the message: ``"a .jsonl file holds an object a line"``.
        with_line: add the line of the fault to ``place``.

    Raises:
        ValueError: it isn't valid JSON, is nested too deep, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{place} line {error.lineno}" if with_line else place
        raise ValueError(f"{where} is not valid JSON: {error.msg} at column {error.colno}; {form}") from error
    except RecursionError as error:
        raise ValueError(f"{place} is nested too deep to be read as JSON; {form}") from error
    except ValueError as error:  # a whole number of more digits than Python reads
        raise ValueError(f"{place} holds a number that can't be read: {str(error).split(';')[0]}; {form}") from error
