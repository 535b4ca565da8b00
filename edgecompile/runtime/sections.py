"""Values of one section of an untrusted manifest, read by type and within bounds."""
from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from .errors import BadInputError


class Section:
    """A JSON object that may hold only the `known` keys; errors say `where` it stands."""

    def __init__(self, data: object, known: Collection[str], where: str) -> None:
        self.where = where
        if not isinstance(data, Mapping):
            raise BadInputError(where, f"{data!r:.200}", "an object")
        self.data: Mapping[Any, Any] = data
        unknown = [key for key in data if key not in known]
        if unknown:
            raise BadInputError(where, f"unknown key {unknown[0]!r:.200}", ", ".join(known))

    def bad(self, key: str, expected: str) -> NoReturn:
        """Refuse the value of `key`."""
        raise BadInputError(f"{self.where}: {key}", f"{self.data.get(key)!r:.200}", expected)

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`; true and false are none."""
        value = self.data.get(key)
        if type(value) is not int or not low <= value <= high:
            self.bad(key, f"a whole number from {low} to {high}")
        return int(value)

    def integer_or_zero(self, key: str, high: int) -> int:
        """A whole number from 1 to `high`, or 0 where the key is missing or null."""
        return 0 if self.data.get(key) is None else self.integer(key, 1, high)

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number from `low` to `high`."""
        return self._number(key, self.data.get(key), low, high)

    def numbers(self, key: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """A list of `count` finite numbers from `low` to `high`."""
        values = self.data.get(key)
        if not isinstance(values, (list, tuple)) or len(values) != count:
            self.bad(key, f"{count} numbers")
        return tuple(self._number(key, value, low, high) for value in values)

    def choice(self, key: str, allowed: Collection[str]) -> str:
        """One of the texts in `allowed`."""
        value = self.data.get(key)
        if not isinstance(value, str) or value not in allowed:
            self.bad(key, " or ".join(allowed))
        return value

    def _number(self, key: str, value: Any, low: float, high: float) -> float:
        # Compared before it becomes a float, which a whole number of 400 digits cannot.
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not low <= value <= high:
            self.bad(key, f"a number from {low} to {high}")
        number = float(value)
        return number if math.isfinite(number) else self.bad(key, "a finite number")
