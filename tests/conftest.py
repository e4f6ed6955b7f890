"""What tests of several rooms share: tiny random language models, real ones, and a browser."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from html import unescape
from importlib.metadata import version
from pathlib import Path
from typing import Any

# One thread for every test, in other libraries and in the processes it starts as well: with tiny
# tensors two are slower, far slower on a busy machine, and no outcome may depend on how many cores
# a machine has (the sums of k-means do). Libraries read this when they are loaded.
os.environ["OMP_NUM_THREADS"] = "1"
# Timings of searches are kept for all tests, and not where those of the user are.
os.environ["DICTLEARN_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "dictlearn")

import pytest
import torch

torch.set_num_threads(1)

# Shells start commands in the background with SIGINT ignored, which the processes that tests
# interrupt would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

HAS_HOOKED_TRANSFORMER = int(version("transformer-lens").partition(".")[0]) < 4
SHARED = Path(__file__).resolve().parents[2] / "shared"
SHAPE = {
    "n_layers": 2,
    "d_model": 16,
    "n_heads": 2,
    "d_head": 8,
    "d_mlp": 32,
    "n_ctx": 12,
    "d_vocab": 40,
    "act_fn": "gelu",
    "normalization_type": "LN",
    "seed": 0,
}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=30000", "--disable-features=IsolateSandboxedIframes",
)  # fmt: skip
_PROBE = """
<script>
const errors = [], violations = [], texts = [];
const pause = (time) => new Promise((resolve) => setTimeout(resolve, time));
window.addEventListener("securitypolicyviolation", (event) =>
  violations.push(`${event.effectiveDirective} ${event.blockedURI}`));
window.addEventListener("error", (event) => errors.push(event.message));
const said = console.error;
console.error = (...words) => { errors.push(words.join(" ")); said(...words); };
window.addEventListener("load", () => setTimeout(async () => {
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
  const width = document.documentElement.scrollWidth;
  const letters = [...document.querySelectorAll("body *")].filter((element) =>
    !["SCRIPT", "STYLE"].includes(element.tagName) && element.textContent.trim());
  const smallest = Math.min(...letters.map((one) => parseFloat(getComputedStyle(one).fontSize)));
  const boxes = [...document.querySelectorAll(".scroll")].map((box) =>
    [box.closest("section")?.id, box.querySelector("th")?.textContent, box.scrollWidth,
     box.clientWidth]);
  const unsaid = [...document.querySelectorAll(".plot")].filter((box) =>
    box.scrollWidth > box.clientWidth && !box.previousElementSibling?.matches(".sideways"));
  const legends = drawn.filter((plot) => plot.querySelector(".legend")).map((plot) => {
    const [legend, whole] = [plot.querySelector(".legend"), plot]
      .map((element) => element.getBoundingClientRect());
    const { t, h } = plot._fullLayout._size;
    return [whole.top + t + h, legend.top, legend.bottom, whole.bottom];
  });
  for (const plot of drawn) {
    for (const [curveNumber, trace] of plot.data.entries()) {
      for (let pointNumber = 0; pointNumber < 3; pointNumber++) {
        await pause(60);  // plotly answers no sooner
        try {
          Plotly.Fx.hover(plot, trace.type === "heatmap" ? {xval: pointNumber, yval: 0}
                                                          : [{curveNumber, pointNumber}]);
        } catch (error) { continue; }  // of a curve that answers to no pointer
        texts.push(plot.querySelector(".hoverlayer").textContent);
        const label = plot.querySelector(".hoverlayer");
        label.querySelectorAll("a, img, script").forEach((made) => texts.push(made.outerHTML));
      }
    }
  }
  const buttons = "button, summary, .legendtoggle, td, li";
  for (const button of document.querySelectorAll(buttons)) {
    for (const kind of ["mouseover", "mousedown", "mouseup", "click"]) {
      button.dispatchEvent(new MouseEvent(kind, {bubbles: true}));
    }
  }
  await pause(500);
  const found = {errors, plots: plots.length, drawn: drawn.length, hovers, texts, violations,
                 hit: typeof window.hit,
                 links: document.querySelectorAll("a:not([href^='#'])").length,
                 width, window: window.innerWidth, smallest, boxes, legends, unsaid: unsaid.length};
  parent.postMessage(JSON.stringify(found), "*");
}, 3000));
</script>
"""


# No window of Chromium is narrower than 500 pixels, but a frame is.
_FRAME = """<!doctype html>
<iframe src="{page}" style="border: 0; width: {width}px; height: 2000px"></iframe>
<pre id="found"></pre>
<script>
addEventListener("message", (event) => document.getElementById("found").textContent = event.data);
</script>
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of whole pipelines: with types checked at run time, only others run.

    Tests that need a GPU are skipped where there is none.
    """
    tests, has_gpu = Path(__file__).parent, torch.cuda.is_available()
    for item in items:
        if not has_gpu and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device: nothing was checked"))
        small = any(tests / name in item.path.parents for name in ("unit", "contract"))
        if not small or tests / "unit" / "experiments" in item.path.parents:
            item.add_marker("untyped")


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """The path of a shared file or folder; skips the test where it is absent."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"needs the shared {name}")
        return SHARED / name

    return find


@pytest.fixture(scope="session")
def native() -> Callable[..., Any]:
    """Builds a TransformerLens native bridge with every parameter random, biases included."""
    from transformer_lens.model_bridge import TransformerBridge

    return lambda **config: scrambled(TransformerBridge.boot_native(SHAPE | config))


@pytest.fixture(scope="session")
def hooked_transformer() -> Callable[..., Any]:
    """Builds a random `HookedTransformer`; doing so warns that the class is deprecated.

    Skips the test where it is called and TransformerLens has no such class: from 4.0 on.
    """

    def build(**config: Any) -> Any:
        if not HAS_HOOKED_TRANSFORMER:
            pytest.skip("TransformerLens 4 has no HookedTransformer")
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        return scrambled(HookedTransformer(HookedTransformerConfig(**SHAPE | config)))

    return build


@pytest.fixture(scope="session")
def ids() -> torch.Tensor:
    return torch.randint(40, (3, 12), generator=torch.Generator().manual_seed(0))


def scrambled(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    parameters = list(model.parameters())
    if all(model.unembed.b_U is not parameter for parameter in parameters):
        parameters.append(model.unembed.b_U)  # a buffer from TransformerLens 4.2 on
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


@pytest.fixture
def looked_at() -> Callable[[Path, int, Path], dict[str, Any]]:
    """Look at a page of a given width; skips where there is no browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome on this machine")
    return _look


def _dumped(arguments: list[str], folder: Path) -> str:
    """The document that Chromium dumps; on a busy machine it stands still now and then for good."""
    assert CHROMIUM
    for attempt in range(4):
        profile = f"--user-data-dir={folder / f'profile-{attempt}'}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run(
                [CHROMIUM, *_FLAGS, profile, *arguments],
                capture_output=True, text=True, timeout=60, check=True,
            ).stdout  # fmt: skip
    raise TimeoutError("Chromium did not end within a minute, four times")


def _look(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """Errors, plots, how many are drawn and answer a pointer, and the width of the page.

    Also what the page's policy forbade, the texts of hover boxes, and whether a script from data
    set `window.hit`, when every plot was pointed at and every button clicked; and of the page as
    it was before, the smallest letters, the boxes that scroll (section, first heading, width of
    what is in it, own width), and for every legend the lower end of the axes, its own two ends and
    that of the plot.
    """
    probed = folder / f"probed-{width}.html"
    source = page.read_text(encoding="utf-8")
    probed.write_text(source.replace("<head>", f"<head>{_PROBE}", 1), encoding="utf-8")
    frame = folder / f"frame-{width}.html"
    frame.write_text(_FRAME.format(page=probed.name, width=width), encoding="utf-8")
    dom = _dumped([f"--window-size={width},2000", "--dump-dom", frame.as_uri()], folder)
    match = re.search(r'<pre id="found">(.+?)</pre>', dom, re.S)
    assert match, "the page did not load to its end"
    return json.loads(unescape(match.group(1)))
