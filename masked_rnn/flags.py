"""Options that are true or false."""

from typing import Any

import numpy as np


def flag(argument: str, value: Any) -> bool:
    """`value` as a bool: True, False, 1 or 0, of Python or NumPy. `"no"` would count as true.

    Raises:
        ValueError: anything else.
    """
    if value is True or value is False:
        return value
    if isinstance(value, (int, np.bool_, np.integer)) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{argument} is {value!r}, needed: True or False")
