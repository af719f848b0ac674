"""The page of the protocol's checklist names tests that exist and say which row they hold."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "conformance.md"
_TEST = re.compile(r"`([\w/]+\.py)` (\w+)")

ROWS = re.findall(r"^\| ([\d–]+) \| .* \| (.*) \|$", PAGE.read_text(), re.MULTILINE)


@cache
def docstrings(file: str) -> dict[str, str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name: ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)}


def numbers(docstring: str) -> set[str]:
    label = re.match(r"\[([^\]]*)\]", docstring)
    return set(re.findall(r"\d+", label[1].split("golden")[0])) if label else set()


def test_every_row_of_the_checklist_is_there() -> None:
    found: list[int] = []
    for row, _ in ROWS:
        first, _, last = row.partition("–")
        found += range(int(first), int(last or first) + 1)
    assert found == list(range(1, 83))


@pytest.mark.parametrize(("row", "cell"), ROWS, ids=[row for row, _ in ROWS])
def test_the_tests_of_a_row_exist_and_carry_its_number(row: str, cell: str) -> None:
    tests = _TEST.findall(cell)
    assert tests or cell in ("no module yet", "issue 5", "by design"), cell
    for file, name in tests:
        assert name in docstrings(file), f"{file} has no {name}"
        if 18 <= int(row) <= 56 or int(row) >= 74:
            assert row in numbers(docstrings(file)[name]), f"{name} does not say that it holds row {row}"


def test_every_test_the_page_names_exists() -> None:
    named = [found for line in PAGE.read_text().splitlines() if line.startswith("|") for found in _TEST.findall(line)]
    assert [(file, name) for file, name in named if name not in docstrings(file)] == []


@pytest.mark.parametrize("row", range(1, 13))
def test_every_finding_of_the_audit_has_a_test_of_its_name(row: int) -> None:
    assert any(name.startswith(f"test_row_{row:02}_") for name in docstrings("security/test_audit_rows.py"))
