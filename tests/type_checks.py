"""Checks of shapes and types at run time, of the first calls from each place in every test.

All calls of a run of a second are twenty thousand; to check each took a quarter of the time of all
tests. What a function is given is decided by the line that calls it: a loop of the program that
calls it a hundred times gives it the same kinds a hundred times, and another caller's calls say
nothing of this one's.
"""

import dataclasses
import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any

CALLS_OF_A_TEST = 20
"""From each line of a test: properties are tried with cases of many shapes."""

_CALLS_OF_THE_PROGRAM = 2
"""From each of its lines: one for each half set."""

_CALLS_WITHIN = 1
"""Of a function made within another: a check is prepared for each anew, which costs most."""

_calls: Counter[tuple[CodeType, CodeType, int]] = Counter()
"""By the code of a function and the place of the call: its caller's code and the line there."""


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
    of_the_program = _CALLS_WITHIN if "<locals>" in function.__qualname__ else _CALLS_OF_THE_PROGRAM

    @functools.wraps(function)
    def first_checked(*args: Any, **kwargs: Any) -> Any:
        nonlocal with_checks
        try:
            caller = sys._getframe(1)
        except ValueError:  # the interpreter itself calls it, to take an object away
            return function(*args, **kwargs)
        place = (code, caller.f_code, caller.f_lineno)
        is_test = caller.f_globals.get("__name__", "").startswith("tests.")
        if _calls[place] >= (CALLS_OF_A_TEST if is_test else of_the_program):
            return function(*args, **kwargs)
        _calls[place] += 1
        if with_checks is None:
            with_checks = check(function)
        return with_checks(*args, **kwargs)

    return first_checked
