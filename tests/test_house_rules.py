"""Rules of the house, read from the source: reasons of numbers; sizes of functions and rooms.

What breaks a rule today is listed by name. The lists only shrink: a new offender fails, and so does
a listed one that no longer offends.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cryorefine
from cryorefine.refine.iteration import iterate

SOURCE = Path(cryorefine.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef
MAX_FUNCTION_LINES = 60
MAX_ITERATION_LINES = 30
MAX_PARAMETERS = 7
MAX_ROOM_LINES = 3000

LARGE_FUNCTIONS: dict[str, int] = {}
"""Functions of too many lines of code, and how many they may have until they are divided."""

MANY_PARAMETERS: dict[str, int] = {}
"""Public functions of too many parameters, and how many they may have until they are divided."""

LARGE_ROOMS: dict[str, int] = {}
"""Rooms of too many lines, and how many (in hundreds) they may have until they are divided."""


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def is_kernel(path: Path, function: Function) -> bool:
    """Tell whether a function is an inner loop: compilers want flat arguments and long bodies."""
    calls = [d.func if isinstance(d, ast.Call) else d for d in function.decorator_list]
    is_compiled = any(getattr(call, "id", "") == "compiled" for call in calls)
    return is_compiled or name_of(path).startswith("kernels/")


def is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def is_number(node: ast.AST) -> bool:
    """Tell whether an expression gives numbers that are written in it."""
    match node:
        case ast.Constant(value=bool()):
            return False
        case ast.Constant(value=int() | float()):
            return True
        case ast.UnaryOp(operand=operand):
            return is_number(operand)
        case ast.BinOp(left=left, right=right):
            return is_number(left) or is_number(right)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return any(is_number(part) for part in parts)
        case ast.Call(func=ast.Attribute(), args=parts):  # math.radians(30.0), np.array([...])
            return any(is_number(part) for part in parts)
    return False


def names_of_constants(node: ast.stmt) -> list[str]:
    """Return the names in capitals that a statement gives numbers to."""
    match node:
        case ast.Assign(targets=targets, value=value):
            pass
        case ast.AnnAssign(target=target, value=value):
            targets = [target]
        case _:
            return []
    if value is None or not is_number(value):
        return []
    named = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return [name for name in named if re.fullmatch(r"_?[A-Z][A-Z0-9_]*", name)]


def constants_without_reason(text: str) -> list[str]:
    """Return names of a module's numbers with no docstring below, nor comment above or beside."""
    body, lines = ast.parse(text).body, ["", *text.splitlines()]
    found = []
    for node, following in zip(body, [*body, ast.Pass()][1:], strict=True):
        names = names_of_constants(node)
        own = lines[node.lineno : (node.end_lineno or node.lineno) + 1]
        has_comment = lines[node.lineno - 1].startswith("#") or any(" # " in line for line in own)
        if names and not has_comment and not is_docstring(following):
            found += names
    return found


def functions(tree: ast.Module) -> Iterator[tuple[str, Function, bool]]:
    """Yield name within the module, node, and whether it is a method, of all functions."""

    def within(node: ast.AST, prefix: str, in_class: bool) -> Iterator[tuple[str, Function, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield prefix + child.name, child, in_class
                yield from within(child, f"{prefix}{child.name}.", False)
            elif isinstance(child, ast.ClassDef):
                yield from within(child, f"{prefix}{child.name}.", True)
            else:
                yield from within(child, prefix, in_class)

    yield from within(tree, "", False)


def code_lines(text: str, function: Function) -> int:
    """Return how many lines a function has from its ``def`` on that are neither text nor empty."""
    lines = ["", *text.splitlines()]
    end = function.end_lineno or function.lineno
    code = {n for n in range(function.lineno, end + 1) if lines[n].split("#")[0].strip()}
    if is_docstring(function.body[0]):
        code -= set(range(function.body[0].lineno, (function.body[0].end_lineno or 0) + 1))
    return len(code)


def n_parameters(function: Function, *, is_method: bool) -> int:
    """Return how many parameters a caller may give; ``self`` or ``cls`` is not one of them."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    is_static = any(getattr(d, "id", "") == "staticmethod" for d in function.decorator_list)
    return len(positional) + len(arguments.kwonlyargs) - (is_method and not is_static)


def large_functions() -> dict[str, int]:
    """Return all functions but kernels that have too many lines of code."""
    sizes = {
        f"{name_of(path)}:{name}": code_lines(path.read_text(), node)
        for path in FILES
        for name, node, _ in functions(ast.parse(path.read_text()))
        if not is_kernel(path, node)
    }
    return {name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES}


def functions_of_many_parameters() -> dict[str, int]:
    """Return all public functions but kernels that have too many parameters."""
    counts = {
        f"{name_of(path)}:{name}": n_parameters(node, is_method=is_method)
        for path in FILES
        for name, node, is_method in functions(ast.parse(path.read_text()))
        if not is_kernel(path, node) and not any(n.startswith("_") for n in name.split("."))
    }
    return {name: count for name, count in counts.items() if count > MAX_PARAMETERS}


def large_rooms() -> dict[str, int]:
    """Return the packages that have too many lines, and how many."""
    sizes: dict[str, int] = {}
    for path in FILES:
        room = name_of(path).split("/")[0]
        sizes[room] = sizes.get(room, 0) + len(path.read_text().splitlines())
    return {room: size for room, size in sizes.items() if size > MAX_ROOM_LINES}


def assert_only_shrinks(found: dict[str, int], listed: dict[str, int]) -> None:
    new = {name: size for name, size in found.items() if name not in listed}
    assert not new, f"divide these: {new}"
    grown = {name: size for name, size in found.items() if size > listed[name]}
    assert not grown, f"these have grown, and may only shrink: {grown}"
    mended = listed.keys() - found.keys()
    assert not mended, f"take these out of the list: {mended}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_constant_number_of_a_module_has_its_reason_beside_it(path):
    assert not constants_without_reason(path.read_text())


def test_every_number_of_the_schedule_has_its_reason_below_it():
    tree = ast.parse((SOURCE / "refine" / "policy.py").read_text())
    policy = next(n for n in tree.body if isinstance(n, ast.ClassDef))
    fields = 0
    for node, following in zip(policy.body, [*policy.body, ast.Pass()][1:], strict=True):
        if isinstance(node, ast.AnnAssign):
            fields += 1
            assert is_docstring(following), ast.unparse(node)
    assert fields >= 20


def test_a_number_without_a_reason_would_be_found():
    bare = "_A, B = 1, 2.0\n_C = -3\nD = math.radians(4.0)\n"
    assert constants_without_reason(bare) == ["_A", "B", "_C", "D"]
    reasons = 'A = 1\n"""Why."""\n# Why.\n_B = 2\nC = 3  # why\n'
    assert not constants_without_reason(reasons)
    others = 'A = "text"\nB = True\nc = 1\nD = {"a": 1}\n'
    assert not constants_without_reason(others)


def test_no_function_outside_the_kernels_is_longer_than_a_page():
    assert_only_shrinks(large_functions(), LARGE_FUNCTIONS)


def test_one_iteration_is_printed_in_thirty_lines():
    assert len(inspect.getsource(iterate).splitlines()) <= MAX_ITERATION_LINES


def test_no_public_function_outside_the_kernels_takes_more_than_seven_parameters():
    assert_only_shrinks(functions_of_many_parameters(), MANY_PARAMETERS)


def test_no_room_has_more_than_three_thousand_lines():
    assert_only_shrinks(large_rooms(), LARGE_ROOMS)


def test_lines_and_parameters_are_counted_as_the_rules_say():
    text = (
        "class A:\n"
        "    def f(self, a, /, b, *, c=1):\n"
        '        """Text\n'
        '        that does not count."""\n'
        "\n"
        "        # Nor does this.\n"
        "        def g(x):\n"
        "            return x\n"
        "        return g\n"
        "    @staticmethod\n"
        "    def h(a, b): ...\n"
    )
    found = {name: (node, m) for name, node, m in functions(ast.parse(text))}
    assert list(found) == ["A.f", "A.f.g", "A.h"]
    assert [code_lines(text, node) for node, _ in found.values()] == [4, 2, 1]
    assert [n_parameters(node, is_method=m) for node, m in found.values()] == [3, 1, 2]


@pytest.mark.parametrize(
    ("found", "listed"),
    [({"new": 70}, {}), ({"old": 71}, {"old": 70}), ({}, {"old": 70})],
)
def test_lists_of_offenders_only_shrink(found, listed):
    with pytest.raises(AssertionError):
        assert_only_shrinks(found, listed)
    assert_only_shrinks({"old": 65}, {"old": 70})
