"""`dictlearn evaluate --together`: the table, the file, and what cannot be together."""

import pytest

from dictlearn.cli import app
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.files import save
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import hook_sites
from dictlearn.records.joint import JointRecords
from dictlearn.records.results import Records


def test_together(tmp_path, capsys):
    model = load_model("builtin:stories")
    for name, hook in {"a": "blocks.0.hook_mlp_out", "b": "blocks.1.hook_mlp_out"}.items():
        sae = TopKSAEConfig(n_features=16, k=2).build(hook_sites(model, hook))
        save(sae, tmp_path / name)
    out = tmp_path / "out"
    arguments = ["evaluate", tmp_path / "a", tmp_path / "b", "--tokens", 500, "--together"]
    app([*map(str, arguments), "--out", str(out)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "all but a" in shown
    joint, alone = JointRecords.load(out).sets, Records.load(out).dictionaries
    for name, other in (("a", "b"), ("b", "a")):
        found = joint[f"all but {other}"].metrics
        for metric in ("cross_entropy_spliced", "kl", "loss_recovered_zero"):
            assert found[metric].value == pytest.approx(alone[name].metrics[metric].value, rel=1e-5)
    save(TopKSAEConfig(n_features=8, k=2).build(hook_sites(model, "blocks.0.hook_mlp_out")),
         tmp_path / "c")  # fmt: skip
    again = ["evaluate", tmp_path / "a", tmp_path / "c", "--tokens", 500, "--together"]
    with pytest.raises(InputError, match="several dictionaries replace"):
        app([*map(str, again), "--out", str(tmp_path / "other")], standalone_mode=False)
    assert not (tmp_path / "other" / "results.json").exists()
