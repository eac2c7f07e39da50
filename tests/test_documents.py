"""What the documents show works: code blocks run, names exist, links lead somewhere. `make docs` runs the notebooks."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import npk
from benchmarks import patterns_page, tables

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "theory").glob("*.md"))]
TARGETS = ("study", "test", "docs", "gpu")


def python_blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def runs(code, folder):
    script = folder / "page.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", python_blocks((ROOT / "README.md").read_text(encoding="utf-8")))
def test_each_block_of_the_readme_runs_alone(block, tmp_path):
    runs(block, tmp_path)


@pytest.mark.parametrize("page", ["guide.md", "your_model.md"])
def test_a_page_runs_from_top_to_bottom(page, tmp_path):
    runs("\n".join(python_blocks((ROOT / "docs" / page).read_text(encoding="utf-8"))), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_and_links_of_a_page_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\bnpk((?:\.[A-Za-z_]\w*)+)(?!\w*\.\w)", text):
        functools.reduce(getattr, name[1:].split("."), npk)
    for link in re.findall(r"\]\(([^)#:\s]+)[)#]", text):
        assert page.parent.joinpath(link).exists(), f"{page.name} links to {link}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_no_result_is_typed_twice():
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(), "run `python -m benchmarks.tables`"
    assert patterns_page.PAGE.read_text(encoding="utf-8") == patterns_page.page(), "run `python -m benchmarks.tables`"


@pytest.mark.parametrize("target", TARGETS)
def test_the_commands_of_the_readme_exist(target):
    assert f"make {target}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_version_is_said_once_everywhere():
    for file, pattern in (
        ("pyproject.toml", 'version = "{}"'),
        ("CITATION.cff", "version: {}"),
        ("CHANGELOG.md", "## [{}]"),
    ):
        assert pattern.format(npk.__version__) in (ROOT / file).read_text(encoding="utf-8"), file
