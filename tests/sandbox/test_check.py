"""Code against tests: what honest code gets, and the ways to be called right without being right."""

# ruff: noqa: E501  (one program, one line)

from __future__ import annotations

from collections.abc import Iterator

import pytest

from doran.sandbox.launch import SandboxError
from doran.sandbox.pool import Limits, Sandbox


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(Limits(wall_s=3, memory_mb=256), workers=1) as made:
        try:
            made.run("")
        except SandboxError as error:
            pytest.skip(str(error))
        yield made


def test_passes_are_counted_and_the_first_failure_named(box: Sandbox) -> None:
    verdict = box.check("def f(x): return x * 2", ["assert f(2) == 4", "assert f(3) == 7, 'three'", "f(1) + f(2)"], ["f"])
    assert (verdict.status, verdict.passed, verdict.total) == ("ok", 2, 3) and not verdict.correct
    assert verdict.reason == "AssertionError: three"
    assert box.check("def f(x): return x * 2", ["assert f(2) == 4"], ["f"]).correct


VALUES = ["None", "True", "-3", "10 ** 40", "0.1", "float('inf')", "'한'", "b'x'", "1j", "[1, (2, {3})]", "{'a': [1], 2: {}}",
          "frozenset({1})", "range(3)", "__import__('fractions').Fraction(1, 3)", "__import__('decimal').Decimal('0.1')"]


@pytest.mark.parametrize("value", VALUES)
def test_plain_values_cross_both_ways_unchanged(box: Sandbox, value: str) -> None:
    tests = [f"assert f({value}) == {value} and type(f({value})) is type({value})", f"assert g() == {value}"]
    verdict = box.check(f"def f(x): return x\ndef g(): return {value}", tests, ["f", "g"])
    assert verdict.correct, verdict.reason


def test_subclasses_arrive_as_what_they_are_made_of(box: Sandbox) -> None:
    code = "import collections, enum\ndef f(): return collections.Counter('aab')\nclass E(enum.IntEnum): A = 1\ndef g(): return E.A"
    assert box.check(code, ["assert f() == {'a': 2, 'b': 1}", "assert g() == 1"], ["f", "g"]).correct


def test_iterators_cross_once(box: Sandbox) -> None:
    code = "def f():\n  yield 1\n  yield 2"
    assert box.check(code, ["assert list(f()) == [1, 2]", "assert f() != [1, 2]", "assert next(f()) == 1"], ["f"]).correct


def test_objects_stay_there_and_go_by_handle(box: Sandbox) -> None:
    code = ("class Node:\n  def __init__(self, v): self.v, self.left = v, None\n"
            "def depth(n): return 0 if n is None else 1 + depth(n.left)\ndef same(a, b): return a is b")
    setup = "root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)"
    tests = ["assert depth(root) == 3", "assert root.left.v == 2", "assert same(root, root)", "assert root != Node(1)"]
    verdict = box.check(code, tests, ["Node", "depth", "same"], setup=setup)
    assert verdict.correct, verdict.reason


def test_arguments_changed_in_place_come_back(box: Sandbox) -> None:
    test = "x = [3, 1, 2]\nd = {}\nassert f(x, d) is None\nassert x == [1, 2, 3] and d == {'n': 3}"
    assert box.check("def f(x, d):\n  x.sort()\n  d['n'] = len(x)", [test], ["f"]).correct


def test_exceptions_cross_by_name(box: Sandbox) -> None:
    test = "try: f()\nexcept ValueError as e: assert str(e) == 'bad'\nelse: assert False"
    assert box.check("def f(): raise ValueError('bad')", [test], ["f"]).correct
    assert box.check("class Odd(Exception): pass\ndef f(): raise Odd('x')", ["f()"], ["f"]).reason == "CodeFailed: Odd: x"


def test_what_is_wrong_with_the_code_is_said(box: Sandbox) -> None:
    assert "NameError" in box.check("def g(): pass", ["f()"], ["f"]).reason
    assert "SyntaxError" in box.check("def f(:", ["f()"], ["f"]).reason
    assert "ZeroDivisionError" in box.check("1/0", ["f()"], ["f"]).reason
    assert "MemoryError" in box.check("def f(): return 'x' * (1 << 40)", ["f()"], ["f"]).reason
    late = Sandbox(Limits(wall_s=0.3), workers=1)
    assert late.check("def f():\n  while True: pass", ["f()"], ["f"]).status == "timeout"
    late.close()


CHEATS = {
    "leave with success": "import os\ndef f(x): os._exit(0)",
    "leave while loading": "raise SystemExit(0)",
    "equal to everything": "class Yes:\n  def __eq__(s, o): return True\n  def __ne__(s, o): return False\ndef f(x): return Yes()",
    "an int equal to everything": "class Yes(int):\n  def __eq__(s, o): return True\n  __hash__ = int.__hash__\ndef f(x): return Yes()",
    "a list equal to everything": "class Yes(list):\n  def __eq__(s, o): return True\ndef f(x): return Yes()",
    "a text equal to everything": "class Yes(str):\n  def __eq__(s, o): return True\n  __hash__ = str.__hash__\ndef f(x): return Yes()",
    "change assert's error": "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\ndef f(x): return 0",
    "change builtins": "import builtins\nbuiltins.exec = lambda *a: None\nbuiltins.len = lambda x: 1\ndef f(x): return 0",
    "define names of the tests": "def check(f): pass\ntests = []\ndef f(x): return 0\nAssertionError = Exception",
    "print a verdict": "print('{\"passed\": 1, \"total\": 1, \"error\": null}')\ndef f(x): return 0",
    "write a verdict everywhere": ("import os\ndef f(x):\n  for n in range(64):\n    try: os.write(n, b'{\"passed\": 1, \"total\": 1, \"error\": null}')\n"
                                   "    except OSError: pass\n  return 0"),
    "read the tests from its memory": ("import gc\ndef f(x):\n  for o in gc.get_objects():\n    if isinstance(o, str) and 'assert f' in o: return 9\n"
                                       "    if isinstance(o, dict) and 'tests' in o and isinstance(o['tests'], list): return 9\n  return 0"),
    "read the frames above": "import sys\ndef f(x):\n  g = sys._getframe()\n  while g:\n    if 'verdict' in g.f_locals: return 9\n    g = g.f_back\n  return 0",
    "raise what the test wants": "def f(x): raise StopIteration",
    "break the link": "import os\ndef f(x): os.write(3, b'not json\\n'); return 0",
    "flood the link": "import os\ndef f(x):\n  while True: os.write(3, b'x' * 65536)",
    "a deep answer": "import os\ndef f(x): os.write(3, b'[' * 100000 + b'\\n')",
    "a value of no kind": "import os\ndef f(x): os.write(3, b'{\"value\": \"[\\\\\"os.system\\\\\", \\\\\"ls\\\\\"]\"}\\n')",
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_not_right(box: Sandbox, name: str) -> None:
    verdict = box.check(CHEATS[name], ["assert f(3) == 9"], ["f"])
    assert not verdict.correct and verdict.passed == 0, verdict
    assert box.check("def f(x): return x * x", ["assert f(3) == 9"], ["f"]).correct


def test_builtins_of_the_tests_are_the_tests_own(box: Sandbox) -> None:
    code = "def abs(x): return -1\ndef sum(a, b): return a + b\ndef f(x): return 0"
    assert not box.check(code, ["assert abs(f(3) - 9) < 1"], ["f"]).correct
    assert box.check(code, ["assert sum(1, 2) == 3"], ["sum"]).correct


def test_the_tests_of_one_run_are_not_in_the_memory_of_the_next(box: Sandbox) -> None:
    marker = "marker-of-the-tests-7361"
    box.check("def f(): return 1", [f"assert f() == 1 or '{marker}'"], ["f"])
    code = ("import gc, ctypes\ndef f():\n  needle = ('7361-stset-eht-fo-rekram')[::-1]\n"
            "  return [o for o in gc.get_objects() if isinstance(o, dict) for v in o.values() if v == needle]")
    assert box.check(code, ["assert f() == []"], ["f"]).correct
