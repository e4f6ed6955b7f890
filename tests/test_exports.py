"""What `import dictlearn` offers, and what it leaves alone."""

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dictlearn as dl
from dictlearn.dictionaries.registry import KINDS

ROOT = Path(__file__).parents[1]
PROMISED = {  # the public interface: none of these goes without a new major version
    "load_model", "hook_sites", "mlp_sites", "load_tokens", "harvest", "fit", "FitConfig",
    "evaluate", "save", "load", "FeatureDictionary", "check_dictionary",
    "SAEConfig", "CodebookConfig", "TopKSAEConfig", "TranscoderConfig",
}  # fmt: skip
SLOW_TO_IMPORT = ("transformer_lens", "sklearn", "pandas", "plotly", "typer")


def test_what_is_promised_is_exported():
    assert set(dl.__all__) >= PROMISED
    assert dl.__all__ == sorted(dl.__all__, key=lambda name: (name.islower(), name))
    assert len(dl.__all__) == len(set(dl.__all__))


@pytest.mark.parametrize("name", dl.__all__)
def test_every_export_is_documented(name):
    exported = getattr(dl, name)
    if name == "Objective":  # a type alias: its docstring stands below it in core/learning.py
        return
    assert inspect.isclass(exported) or inspect.isfunction(exported) or name == "plot"
    document = exported.__doc__ or ""
    assert document.strip()
    generated = f"{name}("  # what `dataclass` writes where nobody wrote anything
    assert not document.startswith(generated)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_every_kind_is_exported(config):
    assert getattr(dl, config.__name__) is config
    assert config.__name__ in dl.__all__


def test_kinds_have_names_of_their_own():
    assert len({config.kind for config in KINDS}) == len(KINDS)


@pytest.mark.parametrize(
    ("wrong", "right"), [("evalute", "evaluate"), ("TopKSaeConfig", "TopKSAEConfig")]
)
def test_a_misspelt_name_has_the_nearest_ones(wrong, right):
    with pytest.raises(AttributeError, match=rf"no '{wrong}'; did you mean '{right}"):
        getattr(dl, wrong)
    assert not hasattr(dl, "__nothing__"), "as Python itself asks"


def test_import_is_light():
    script = f"import sys, dictlearn; print([m for m in {SLOW_TO_IMPORT} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "[]"


def test_the_wheel_contains_assets_and_templates():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["dictlearn"]
    package = ROOT / "dictlearn"
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    assets = {path for path in (package / "assets").rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in assets}
    folders = (package, package / "comparison", package / "circuits")
    templates = {path for folder in folders for path in (folder / "templates").iterdir()}
    expected = {"page.html.jinja", "report.css", "report.js", "cards.css", "graph.js"}
    assert expected <= {path.name for path in templates}
    assert assets | templates <= packed
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == ["dictlearn*"]
    assert project["project"]["scripts"]["dictlearn"].startswith("dictlearn.cli:")
