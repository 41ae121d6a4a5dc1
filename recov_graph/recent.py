"""What was used last, in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """The values that were put or made last; an older one may be gone. Thread-safe.

    Args:
        capacity: how many are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._capacity = capacity
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """The value, or None."""
        return self._values.get(key)

    def put(self, key: Key, value: Value) -> Value:
        """Remember it, and forget the oldest."""
        with self._lock:
            self._values[key] = value
            self._trim(key)
        return value

    def of(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value, made where there is none."""
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            value = self._values[key]
            self._trim(key)
            return value

    def pop(self, key: Key) -> Value | None:
        """The value, forgotten with this; or None."""
        with self._lock:
            return self._values.pop(key, None)

    def _trim(self, used: Key) -> None:
        self._values.move_to_end(used)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)
