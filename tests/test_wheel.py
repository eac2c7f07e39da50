"""What is shipped is whole: the wheel, in an environment that has nothing else of npk, runs the main job."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_every_file_and_runs_a_study(tmp_path):
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command):
        words = [str(part) for part in command]
        return subprocess.run(words, check=True, cwd=tmp_path, env=elsewhere, capture_output=True, text=True).stdout

    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("npk-*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("npk/")}
    files = {path for path in (ROOT / "npk").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert shipped == {path.relative_to(ROOT).as_posix() for path in files}
    assert {"npk/py.typed", "npk/studies/pages/page_style.css", "npk/studies/pages/report_template.html"} <= shipped

    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    # A path in a .pth file adds what npk requires, and no .pth of that folder, so not the tree under test.
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import npk; print(npk.__file__)")
    assert Path(where.strip()) == site / "npk" / "__init__.py"
    small = "--width 8 --depth 3 --epochs 1 --samples 20 --test-samples 20 --no-regimes".split()
    run(tmp_path / "env" / "bin" / "npk", "study", *small, "--out", tmp_path / "run")
    assert "<svg" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
