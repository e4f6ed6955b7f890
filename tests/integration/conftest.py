"""A page in a headless Chromium: what a reader would find there."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=10000",
)  # fmt: skip
_PROBE = """
<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(event.message));
const said = console.error;
console.error = (...words) => { errors.push(words.join(" ")); said(...words); };
window.addEventListener("load", () => setTimeout(() => {
  const plots = [...document.querySelectorAll(".js-plotly-plot")];
  const drawn = plots.filter((plot) => plot.querySelector(".main-svg"));
  let hovers = 0;
  for (const plot of drawn) {
    try {
      const answers = (t) => t.visible !== "legendonly" && t.hoverinfo !== "skip";
      const shown = plot.data.findIndex(answers);
      const curveNumber = Math.max(shown, 0);
      const isMap = plot.data[curveNumber].type === "heatmap";
      Plotly.Fx.hover(plot, isMap ? {xval: 1, yval: 0} : [{curveNumber, pointNumber: 0}]);
      hovers += plot.querySelectorAll(".hoverlayer .hovertext").length > 0;
    } catch (error) { errors.push(String(error)); }
  }
  const found = {errors, plots: plots.length, drawn: drawn.length, hovers,
                 width: document.documentElement.scrollWidth, window: window.innerWidth};
  document.body.insertAdjacentHTML("beforeend", "<pre id='found'></pre>");
  document.getElementById("found").textContent = JSON.stringify(found);
}, 3000));
</script>
"""


@pytest.fixture
def looked_at() -> Callable[[Path, int, Path], dict[str, Any]]:
    """Look at a page of a given width; skips where there is no browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome on this machine")
    return _look


def _look(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """Errors, plots, how many are drawn and answer a pointer, and the width of the page."""
    assert CHROMIUM
    probed = folder / f"probed-{width}.html"
    source = page.read_text(encoding="utf-8")
    probed.write_text(source.replace("<head>", f"<head>{_PROBE}", 1), encoding="utf-8")
    dom = subprocess.run(
        [CHROMIUM, *_FLAGS, f"--user-data-dir={folder / 'profile'}",
         f"--window-size={width},2000", "--dump-dom", probed.as_uri()],
        capture_output=True, text=True, timeout=600, check=True,
    ).stdout  # fmt: skip
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.S)
    assert match, "the page did not load to its end"
    return json.loads(unescape(match.group(1)))
