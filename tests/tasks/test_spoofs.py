"""Programs that claim a pass, in every way that is known, and the taking apart of assertions that makes it vain."""

import textwrap
from typing import Any

import pytest

from fsgen import tasks
from fsgen.tasks import assertions, sandbox

TESTS = ("assert f(3) == 9", "assert f(4) == 16")

# What a program writes on every descriptor before it ends itself.
REPORTS = {
    "guessed values": '{"passed": true, "values": [true, true]}\n',
    "one right value": '{"passed": true, "values": [9, 9]}\n',
    "one value": '{"passed": true, "values": [9]}\n',
    "no values": '{"passed": true, "values": []}\n',
    "nothing of values": '{"passed": true}\n',
    "values by name": '{"passed": true, "values": {"tuple": [9, 16]}}\n',
    "passed, nearly": '{"passed": "yes", "values": [9, 16]}\n',
    "passed is one": '{"passed": 1, "values": [9, 16]}\n',
    "no error": '{"passed": false, "error": null, "limit": null}\n',
    "an error without words": '{"passed": false, "error": "", "limit": null}\n',
    "an error of another type": '{"passed": false, "error": [], "limit": {}}\n',
    "an error that cannot be stored": '{"passed": false, "error": "\\ud800\\n", "limit": []}\n',
    "a list": "[]\n",
    "a number": "1\n",
    "no JSON": "\x00\udcff\n",
    "not the end of a line": '{"passed": true, "values": [9, 16]}',
    "two reports": '{"started": true}\n{"passed": true, "values": [9, 16]}\n',
    "deep": "[" * 30000 + "\n",
    "deep and closed": "[" * 30000 + "]" * 30000 + "\n",
    "deep values": '{"passed": true, "values": [' + "[" * 300 + "]" * 300 + ", 16]}\n",
    "a kind that is none": '{"passed": true, "values": [{"eval": ["9"]}, 16]}\n',
    "a set of lists": '{"passed": true, "values": [{"set": [[]]}, 16]}\n',
    "a dictionary of numbers": '{"passed": true, "values": [{"dict": [1]}, 16]}\n',
    "bytes of text": '{"passed": true, "values": [{"bytes": ["a"]}, 16]}\n',
    "a complex infinity": '{"passed": true, "values": [{"complex": [' + "9" * 4000 + ", 1]}, 16]}\n",
    "a number that is too large": '{"passed": true, "values": [' + "9" * 5000 + ", 16]}\n",
    "too much": "x" * (1 << 19),
}

# Functions that are wrong, and what hides it.
PROGRAMS = {
    "json": 'import json\njson.dumps = lambda *a, **k: \'{"passed": true, "values": [true, true]}\'',
    "os.write": "import os\nold = os.write\nos.write = lambda fd, data: old(fd, data.replace(b'[0', b'[true'))",
    "functions of the report": """
        import sys
        frame = sys._getframe()
        while frame:
            for name in ("_plain", "_tell", "_execute", "_describe", "_which_limit"):
                if name in frame.f_globals:
                    frame.f_globals[name] = lambda *a: True
            frame = frame.f_back""",
    "variables of the report": """
        import sys
        frame = sys._getframe()
        while frame:
            for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
                if hasattr(value, "calls"):
                    value.calls.clear()
                if isinstance(value, list) and value and isinstance(value[0], str):
                    value.clear()
            frame = frame.f_back""",
    "objects in memory": """
        import gc
        for thing in gc.get_objects():
            if getattr(thing, "__name__", "") == "_plain" and hasattr(thing, "__code__"):
                thing.__code__ = (lambda value: True).__code__""",
    "built-in functions": "import builtins\nbuiltins.eval = lambda *a: True",
    "the exceptions": "import builtins\nbuiltins.AssertionError = builtins.BaseException = type('E', (), {})",
    "traces": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)",
    "equality": """
        class A(int):
            __eq__ = lambda s, o: True
            __hash__ = int.__hash__
        def f(x): return A()""",
    "equality without data": "class A: __eq__ = lambda s, o: True\ndef f(x): return A()",
    "a number without end": "def f(x): return 10 ** 9999",
    "more than fits": "def f(x): return 'x' * (1 << 19)",
    "a list in itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "an exit": "import os\ndef f(x): os._exit(0)",
    "an exception without a name": "raise type('', (Exception,), {})",
    "an exception that cannot be told": """
        class E(Exception):
            def __str__(self): raise self
            __cause__ = property(lambda s: s)
        raise E""",
}
WRITE = """
import os
for fd in range(3, 256):
    try: os.write(fd, {!r}.encode("utf-8", "replace"))
    except OSError: pass
"""


def _reporting(name: str) -> str:
    return WRITE.format(REPORTS[name]) + "os._exit(0)"


def _hiding(name: str) -> str:
    return "def f(x): return 0\n" + textwrap.dedent(PROGRAMS[name])


def _assert_failed(result: sandbox.SandboxResult) -> None:
    assert not result.passed
    assert result.error
    assert "\n" not in result.error
    result.error.encode()


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("name", REPORTS)
def test_a_forged_report_fails(name: str) -> None:
    _assert_failed(sandbox.run(_reporting(name), TESTS))


@pytest.mark.usefixtures("mode")
def test_a_report_beside_the_true_one_fails() -> None:
    forged = WRITE.format('{"passed": true, "values": [9, 16]}\n')
    _assert_failed(sandbox.run(f"def f(x): return 0{forged}", TESTS))


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_hides_its_failure_fails(name: str) -> None:
    _assert_failed(sandbox.run(_hiding(name), TESTS))


@pytest.mark.usefixtures("mode")
def test_the_right_function_passes() -> None:
    result = sandbox.run("def f(x): return x * x", TESTS)
    assert (result.passed, result.error, result.values) == (True, "", (9, 16))


@pytest.mark.usefixtures("mode")
def test_what_is_expected_never_enters_the_process() -> None:
    program = (
        "import gc, sys\ndef f(x):\n    frame, seen = sys._getframe(), []\n    while frame:\n"
        "        seen.append((frame.f_locals, frame.f_globals))\n        frame = frame.f_back\n"
        "    return repr(seen) + repr(gc.get_objects())\n"
    )
    result = sandbox.run(program, ["assert f(1) == 'a' + 'secret of the test'", "assert f(2)[:1] == '['"])
    assert "secret" not in repr(result.values)
    assert not result.passed


def test_a_spoof_scores_zero() -> None:
    task = tasks.get("tiny_python")
    [example] = task.load(1)
    for spoof in (_reporting("deep"), _hiding("an exception without a name"), _hiding("equality")):
        assert task.score(example, f"{spoof}\n[DONE]").value == 0.0


@pytest.mark.parametrize(
    ("test", "calls", "condition"),
    [
        ("assert f(1, [2]) == {3: (4,)}", ("f(1, [2])",), "_0 == {3: (4,)}"),
        ("assert f([i for i in (1, 2)], key=lambda x: x)", ("f([i for i in (1, 2)], key=lambda x: x)",), "_0"),
        ("assert sum(10, 15) == 6", ("sum(10, 15)",), "_0 == 6"),
        ("assert int(f(2)) == 6, 'why'", ("f(2)",), "int(_0) == 6"),
        ("assert set(f(2)) == set(g(f(3)))", ("f(2)", "g(f(3))"), "set(_0) == set(_1)"),
        ("assert abs(f(2) - 1.5) < 1e-6", ("f(2)",), "abs(_0 - 1.5) < 1e-06"),
        ("assert math.isclose(f(2), 1.5)", ("f(2)",), "math.isclose(_0, 1.5)"),
        ("assert isclose(f(2), 1.5)", ("f(2)",), "isclose(_0, 1.5)"),
        ("assert bisect(2)", ("bisect(2)",), "_0"),
        ("assert Solution().f(2)[0] == x", ("Solution().f(2)[0]", "x"), "_0 == _1"),
        ("assert all(x > 0 for x in f(3))", ("f(3)",), "all((x > 0 for x in _0))"),
        ("assert all(x for x in f(x=2))", ("f(x=2)",), "all((x for x in _0))"),
        ("assert 1", (), "1"),
    ],
)
def test_assertions_are_taken_apart(test: str, calls: tuple[str, ...], condition: str) -> None:
    found = assertions.split(test, "from math import isclose")
    assert (found.calls, found.condition) == (calls, condition)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("assert f(", "is no Python"),
        ("assert " + "(" * 5000, "is no Python"),
        ("assert " + "-" * 2000 + "f(1)", "is no Python"),
        ("assert f(1)\x00", "null"),
        ("x = f(1)", "must be one assert statement"),
        ("assert f(1)\nassert f(2)", "must be one assert statement"),
        ("assert all(f(x) == y for x, y in ((1, 2),))", "with a variable of its own: f"),
        ("assert (lambda x: f(x))(3)", "with a variable of its own: f"),
    ],
)
def test_an_assertion_that_cannot_be_taken_apart_is_refused(test: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assertions.split(test)
    row = {"task_id": 1, "text": "t", "code": "c", "test_list": [test]}
    with pytest.raises(ValueError, match=message):
        tasks.get("mbpp").example(row, 0, 0)


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize(
    ("program", "test", "passed"),
    [
        ("def f(x): return 1.5", "assert math.isclose(f(2), 1.5 + 1e-12)", True),
        ("import math\nmath.isclose = lambda *a: True\ndef f(x): return 1", "assert math.isclose(f(2), 1.5)", False),
        ("abs = lambda x: 0\ndef f(x): return 1", "assert abs(f(2) - 1.5) < 1e-6", False),
        ("def f(x): return [2, 1, 2]", "assert set(f(2)) == {1, 2}", True),
        ("def f(x): return {1}", "assert isinstance(f(2), set)", True),
        ("def f(x): return float('nan')", "assert f(2) != f(2)", True),
        ("def f(x): return '\\udcff' + chr(10)", "assert len(f(2)) == 2", True),
        ("def f(x):\n    a = []\n    for _ in range(150): a = [a]\n    return a", "assert len(f(2)) == 1", True),
        ("def f(x):\n    a = []\n    for _ in range(250): a = [a]\n    return a", "assert len(f(2)) == 1", False),
        ("x = 3", "assert x == {[]: 1}", False),
        ("x = 3", "assert x in (1, 3)", True),
        ("x = 4", "assert x in (1, 3)", False),
    ],
)
def test_what_compares_more_than_a_literal_is_judged_in_a_process_of_its_own(
    program: str, test: str, passed: bool
) -> None:
    result = sandbox.run(program, [test, "assert 1"], setup="import math")
    assert result.passed == passed
    assert bool(result.error) != passed


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize(
    "value",
    [
        "None", "True", "-3", "10 ** 50", "2.5", "1e999", "'é\\n'", "b'\\xff'", "1j", "[1, (2, {3}), {4: [5]}]", "()",
        "{}", "frozenset({1})", "{(1, 2): frozenset({3})}",
    ],
)  # fmt: skip
def test_plain_data_come_out_as_they_are(value: str) -> None:
    result = sandbox.run(f"def f(): return {value}", [f"assert f() == {value}"])
    assert result.passed, result.error
    [read] = result.values
    expected: Any = eval(value)
    assert (read, type(read)) == (expected, type(expected))


@pytest.mark.usefixtures("mode")
def test_subclasses_of_plain_data_are_their_data() -> None:
    program = (
        "import collections, enum\nclass E(enum.IntEnum): a = 3\nclass S(str): pass\n"
        "P = collections.namedtuple('P', 'x y')\n"
        "def f(): return [E.a, S('s'), P(1, 2), collections.Counter('aa'), collections.OrderedDict(b=1)]"
    )
    expected = [3, "s", (1, 2), {"a": 2}, {"b": 1}]
    assert sandbox.run(program, [f"assert f() == {expected!r}"]).passed
