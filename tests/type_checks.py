"""Checks of shapes and types at run time, of the first calls of each function in every test.

All calls of a run of a second are twenty thousand; to check each took a quarter of the time of all
tests. What a function is given in a test is decided by who calls it: a loop that calls it a
hundred times gives it the same kinds a hundred times.
"""

import dataclasses
import functools
import inspect
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any

CALLS_A_TEST = 20
"""Of each function; one in eight functions that a run calls is called more often."""

_calls: Counter[CodeType] = Counter()
"""By code: functions that are made within others are new at each call of those."""


def begin_test() -> None:
    """Check the next calls of all functions again."""
    _calls.clear()


def of_first_calls(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``jaxtyping.jaxtyped`` that checks first calls, and prepares no check before."""

    def decorate(*, typechecker: Any) -> Callable[[Any], Any]:
        def checked(target: Any) -> Any:
            if inspect.isfunction(target):
                return _checked_at_first(
                    target, functools.partial(jaxtyped, typechecker=typechecker)
                )
            if dataclasses.is_dataclass(target) and "__init__" in vars(target):
                target.__init__ = checked(target.__init__)
            return target

        return checked

    return decorate


def _checked_at_first(function: Callable[..., Any], check: Callable[..., Any]) -> Any:
    code, with_checks = function.__code__, None

    @functools.wraps(function)
    def first_checked(*args: Any, **kwargs: Any) -> Any:
        nonlocal with_checks
        if _calls[code] >= CALLS_A_TEST:
            return function(*args, **kwargs)
        _calls[code] += 1
        if with_checks is None:
            with_checks = check(function)
        return with_checks(*args, **kwargs)

    return first_checked
