"""The house is as drawn: import rules hold, the documents name files that exist, no file is empty talk."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "edgehive"
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "README_zh.md", *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "protos" not in path.parts)


def test_the_import_rules_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_files_that_exist(document: Path) -> None:
    names = set(re.findall(r"`([\w./-]+\.py)`", document.read_text()))
    known = {str(path.relative_to(ROOT)) for path in [*SOURCES, *(ROOT / "tests").rglob("*.py")]}
    missing = [name for name in names if not any(path == name or path.endswith(f"/{name}") for path in known)]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_hold(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_says_what_it_is_for(source: Path) -> None:
    text = source.read_text()
    if source.name == "__init__.py" and not text.strip():
        return
    assert ast.get_docstring(ast.parse(text)), f"{source} opens without a paragraph"


def test_tls_is_verified_everywhere() -> None:
    forbidden = re.compile(r"CERT_NONE|check_hostname *= *False|verify *= *False|shell *= *True")
    assert [str(path) for path in SOURCES if forbidden.search(path.read_text())] == []


def test_no_file_holds_two_ideas_by_size() -> None:
    assert [str(path) for path in SOURCES if len(path.read_text().splitlines()) > 700] == []
