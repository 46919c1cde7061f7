"""Values that no column should hold, and some that it may; all of them in all columns."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.robustness.small_set import SmallSet, valid_set

__all__ = ["FAR_TOO_LARGE", "NO_NUMBERS", "OddCase", "columns_with_numbers", "odd_cases"]

NO_NUMBERS = ("nan", "inf", "-inf", "1e400", "abc", "0x10", "1,5")
FAR_TOO_LARGE = ("1e20", "-1e20", "1e38", "1e100", "-1e308")
MAY_BE_GOOD = ("0", "-1", "5e-324", "-1e-40", "1e-10", "1000", "-0.0", "1e6")
LISTS = (
    "[1e20]", "[NaN]", "[-1e308]", "[1e999]", "[" * 5000 + "]" * 5000, "[" * 5000, "[[0.1]]",
    "[" + ",".join(["0.1"] * 200) + "]", "[" + ",".join(["0.1"] * 3000) + "]", "[]", "[true]",
    '{"a":1}', "nan", "0.5", "[1" + "0" * 400 + "]", '"123"', "[null]", "[5e-324]",
)  # fmt: skip


@dataclass(frozen=True)
class OddCase:
    """A set with one odd value.

    Attributes
    ----------
    must_be_refused
        Whether no reading of the value makes sense.
    """

    label: str
    row: int
    value: str
    must_be_refused: bool
    damaged: SmallSet

    @property
    def name(self) -> str:
        """The case in a message."""
        value = self.value if len(self.value) < 30 else f"{self.value[:30]}..."
        return f"{self.label}[{self.row}]={value}"


def columns_with_numbers(chosen: SmallSet) -> list[tuple[str, str]]:
    """Return block and label of the columns whose values are numbers."""
    others = ("rlnImageName", "rlnMicrographName", "rlnOpticsGroupName", "rlnOddZernike",
              "rlnEvenZernike")  # fmt: skip
    return [
        (name, label)
        for name in ("optics", "particles")
        for label in getattr(chosen, name)
        if label not in others
    ]


def odd_cases(seed: int = 0) -> Iterator[OddCase]:
    """Yield all values in all columns, each in a row of its own choice."""
    random, valid = np.random.default_rng(seed), valid_set()

    def case(name: str, label: str, value: str, must_be_refused: bool) -> OddCase:
        row = int(random.integers(len(getattr(valid, name)[label])))
        damaged = valid.with_value(name, label, row, value)
        return OddCase(label, row, value, must_be_refused, damaged)

    for name, label in columns_with_numbers(valid):
        for value in (*NO_NUMBERS, *FAR_TOO_LARGE):
            yield case(name, label, value, True)
        for value in MAY_BE_GOOD:
            yield case(name, label, value, False)
    for label in ("rlnOddZernike", "rlnEvenZernike"):
        for value in LISTS:
            yield case("optics", label, value, value not in ("[]", "[5e-324]", "[true]"))
