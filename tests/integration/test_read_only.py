"""A container: no home, no folder for caches, and a package that cannot be written to."""

import sys
from pathlib import Path

import pytest

import dictlearn as dl
from tests.integration.unprivileged import copied, read_only, run

USE = """
import sys
from pathlib import Path

import dictlearn as dl

package = Path(dl.__file__).parent
try:
    (package / "__pycache__").mkdir()
except OSError:
    pass
else:
    raise AssertionError(f"{package} can be written to")
model = dl.load_model("builtin:stories")
tokens = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=600)
fit_config = dl.FitConfig(steps=3, batch_size=64, standardize_rows=64)
sites = dl.mlp_sites(model, 0)
configs = {"topk": dl.TopKSAEConfig(n_features=32, k=4), "km": dl.KMeansConfig(n_features=4)}
dictionaries = dl.fit(configs, dl.harvest(model, tokens, sites), fit_config, out=sys.argv[1])
print(dl.evaluate(dictionaries, model, tokens).to_pandas().l0.to_dict())
"""


@pytest.mark.parametrize(("home", "code"), [(".", USE), ("nonexistent", "import dictlearn")])
def test_the_package_works_where_no_cache_can_be_written(tmp_path, home, code):
    site = copied(Path(dl.__file__).parent, tmp_path / "site")
    (tmp_path / "homes").mkdir()
    said = run(
        sys.executable, "-c", code, tmp_path / "out",
        folder=tmp_path, home=read_only(tmp_path / "homes") / home, PYTHONPATH=str(site),
    )  # fmt: skip
    assert code != USE or "{'topk': 4.0, 'km': 1.0}" in said
