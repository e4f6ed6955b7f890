"""Which room may import which: the table of the house, as data."""

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dictlearn"
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "metrics": {"core"},
    "text": {"core", "progress"},
    "synthetic": {"core"},
    "lm": {"core", "text", "progress"},
    "distributed": {"core"},
    "activations": {"core", "progress"},
    "kernels": {"core"},
    "dictionaries": {"core", "kernels", "distributed", "progress"},
    "training": {"core", "dictionaries", "activations", "distributed", "progress"},
    "records": {"core"},
    "evaluation": {"core", "metrics", "lm", "text", "activations", "records", "progress"},
    "interventions": {"core", "lm", "records"},
    "circuits": {"core", "metrics", "text", "lm", "interventions", "records", "progress", "pages"},
    "comparison": {"core", "metrics", "records", "progress", "pages"},
    "interop": {"core", "dictionaries", "records"},
}
JOINTS = (  # where rooms meet; each may import those before it
    "contract", "formats", "config_files",
    "active_features", "feature_cards", "feature_table", "plot",
    "harvesting", "finetuning", "blind", "findings", "reporting",
    "studies", "experiments", "demo", "builtin_studies", "cli",
)  # fmt: skip
MODULES: dict[str, set[str]] = {
    "progress": set(),
    "pages": set(),
    "_threads": set(),
    "__main__": {"cli"},
} | {joint: {*ROOMS, *JOINTS[:i], "progress", "pages"} for i, joint in enumerate(JOINTS)}
CORE_LIBRARIES = {"torch", "jaxtyping", "safetensors", "msgspec", "filelock"}
PACKAGES = {
    "scikit_learn": "sklearn",
    "pyyaml": "yaml",
    "faiss_cpu": "faiss",
}  # what a distribution is imported as, where that differs
LONGEST_FILE = 300
LONGER_FILES: dict[str, int] = {}  # a file and its limit, where its ideas do not come apart

FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
each_file = pytest.mark.parametrize(
    "path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES]
)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, lazy: bool) -> Iterator[str]:
    """The modules that a file imports on loading; with `lazy`, those in functions as well."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in later and not lazy:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@each_file
def test_imports_follow_the_table(path):
    room = room_of(path)
    allowed = (ROOMS | MODULES)[room]
    for module in imports(path, lazy=True):
        assert not module.startswith("."), f"{path.name}: a relative import of {module}"
        package, _, rest = module.partition(".")
        if package == "dictlearn":
            assert rest, f"{path.name} imports the package root"
            assert rest.partition(".")[0] in {room, *allowed}, f"{room} may not import {module}"


def test_no_module_is_needed_to_load_itself():
    """No circle of imports on loading, whichever module is loaded first."""
    modules = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES
    }
    needs = {}
    for name, path in modules.items():
        loaded = set(imports(path, lazy=False))
        named = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module in loaded
            for alias in node.names
        }
        needs[name] = modules.keys() & (loaded | named)
    graphlib.TopologicalSorter(needs).prepare()


@each_file
def test_libraries_stay_in_their_rooms(path):
    if room_of(path) != "lm":
        assert "transformer_lens" not in {m.partition(".")[0] for m in imports(path, lazy=True)}
    lazy = room_of(path) == "interop"  # where another library is asked for, it may be imported
    assert "sae_lens" not in {m.partition(".")[0] for m in imports(path, lazy=not lazy)}
    if room_of(path) == "core":
        allowed = CORE_LIBRARIES | {"dictlearn"} | sys.stdlib_module_names
        assert {m.partition(".")[0] for m in imports(path, lazy=True)} <= allowed


def test_what_is_imported_is_required_and_nothing_else():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    required = {package(line) for line in project["project"]["dependencies"]}
    optional = {package(line) for extra in ("saelens", "faiss", "gpu") for line in extras[extra]}
    found = {
        module.partition(".")[0]
        for path in (*FILES, PACKAGE / "__init__.py")
        for module in imports(path, lazy=True)
    }
    found -= sys.stdlib_module_names | {"dictlearn"}
    assert required <= found
    assert found <= required | optional
    at_once = {module.partition(".")[0] for path in FILES for module in imports(path, lazy=False)}
    assert not at_once & (optional - required)


def package(requirement: str) -> str:
    """The name under which a required distribution is imported."""
    name = re.split(r"[^\w-]", requirement)[0].replace("-", "_")
    return PACKAGES.get(name, name)


@each_file
def test_files_stay_short(path):
    limit = LONGER_FILES.get(str(path.relative_to(PACKAGE)), LONGEST_FILE)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit
