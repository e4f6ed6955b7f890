"""What is built from this repository, installed apart from it, is complete."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import dictlearn as dl
from dictlearn.builtin_studies import STUDIES
from dictlearn.dictionaries.registry import KINDS
from tests.integration.unprivileged import read_only, run

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The `bin` of an environment with the wheel, made from the sdist, and its requirements."""
    place = tmp_path_factory.mktemp("packaging")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    compiled = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "dictlearn", source / "dictlearn", ignore=compiled)
    build("sdist", source, place)
    with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
        archive.extractall(place / "unpacked", filter="data")
    build("wheel", next((place / "unpacked").iterdir()), place)
    environment = place / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site = environment / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    wheel = next(place.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", f"--python={environment}/bin/python", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    # The requirements are those of this environment, without what it has of dictlearn itself: an
    # editable installation is a .pth file, and those of folders on such a path are not read.
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    read_only(environment)
    return environment / "bin"


def build(kind: str, source: Path, to: Path) -> None:
    command = [sys.executable, "-c", BUILD.format(kind), str(to)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_script_beside_the_clone_imports_the_package(tmp_path):
    """The folder of a clone has the package's name, and is no package itself."""
    clone, site = tmp_path / "dictlearn", tmp_path / "site"
    (clone / "dictlearn").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    (clone / "dictlearn" / "__init__.py").write_text("")
    build("editable", clone, tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    code = (
        f"import site, sys; sys.path.insert(0, {str(tmp_path)!r}); site.addsitedir({str(site)!r}); "
        "import dictlearn; print(dictlearn.__file__)"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{clone / 'dictlearn' / '__init__.py'}\n"


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package(installed):
    package = Path(dl.__file__).parent
    with zipfile.ZipFile(next(installed.parents[1].glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("dictlearn/")}
    expected = {
        str(path.relative_to(package.parent))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == expected


@pytest.mark.slow
def test_an_installed_package_works_from_end_to_end(installed, tmp_path):
    (tmp_path / "home").mkdir()
    home = read_only(tmp_path / "home")

    def dictlearn(*arguments: object) -> str:
        return run(installed / "dictlearn", *map(str, arguments), folder=tmp_path, home=home)

    code = "import dictlearn; print(dictlearn.__file__)"
    where = run(installed / "python", "-c", code, folder=tmp_path, home=home)
    assert where.startswith(str(installed.parent))
    assert (installed / "dictlearn").read_text().startswith(f"#!{installed}/python")
    assert "harvest" in dictlearn("--help")
    for command, names in {"kinds": [kind.kind for kind in KINDS], "bench": STUDIES}.items():
        listed = dictlearn(command)
        assert all(name in listed for name in names)
    dictlearn("harvest", "--mlp", 0, "--tokens", 600, "--out", "store")
    dictlearn(
        "train", "store", "--kind", "topk_sae", "--n-features", 32, "--k", 4, "--steps", 3,
        "--batch-size", 64, "--out", "topk_sae",
    )  # fmt: skip
    dictlearn("evaluate", "topk_sae", "--tokens", 600, "--out", "results")
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert results["dictionaries"]["topk_sae"]
    dictlearn("compare", "results", "--out", "page.html")
    assert "topk_sae" in (tmp_path / "page.html").read_text()
