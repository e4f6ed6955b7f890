"""A kind written outside the package, registered nowhere, goes through all of it."""

import os
import subprocess
import sys
from pathlib import Path

import dictlearn as dl

SCRIPT = Path(__file__).with_name("own_matryoshka.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(dl.__file__).parents[1])}


def test_a_kind_outside_the_package_takes_at_most_60_lines_and_passes(tmp_path):
    text = SCRIPT.read_text("utf-8")
    assert len(text.splitlines()) <= 60
    script = tmp_path / SCRIPT.name
    script.write_text(text, "utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
