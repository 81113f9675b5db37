"""Attributes that are computed when they are first read."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["derived"]

Value = TypeVar("Value")


class derived(Generic[Value]):
    """Like `functools.cached_property`, without the lock that this has up to Python 3.11.

    That lock is one for all objects, so a child that was forked while another thread held it would wait for ever. Here
    two threads may compute a value at once, and one of the two is kept.
    """

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> "derived[Value]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object | None, owner: type) -> "Value | derived[Value]":
        if instance is None:
            return self
        value: Value = instance.__dict__.setdefault(self._name, self._function(instance))
        return value
