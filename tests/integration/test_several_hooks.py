"""A cross-layer transcoder and a crosscoder, from the command line to cards and concepts."""

import pytest
import torch

import dictlearn as dl
from dictlearn.cli import main

MLPS = [f"blocks.{layer}.mlp.hook_out" for layer in range(4)]
STREAM = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
EACH = f"""
fit = {{steps = 40, batch_size = 512}}
dictionaries.topk_transcoder = {{kind = "topk_transcoder", n_features = 32, k = 4, at = "all"}}
dictionaries.sae = {{kind = "topk_sae", n_features = 32, k = 4, at = ["{MLPS[2]}"]}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)

        def command(*arguments):
            patch.setattr("sys.argv", ["dictlearn", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code, arguments

        mlps = [option for layer in range(4) for option in ("--mlp", layer)]
        hooks = [option for hook in STREAM for option in ("--hook", hook)]
        steps = ["--steps", 40, "--batch-size", 512]
        command("harvest", *mlps, "--tokens", 6000, "--out", "mlps")
        command("harvest", *hooks, "--tokens", 6000, "--out", "stream")
        command("train", "mlps", "--kind", "cross_layer_transcoder", "--n-features", 64,
                "--l1-coefficient", 1e-3, *steps, "--out", "cross_layer_transcoder")  # fmt: skip
        command("train", "stream", "--kind", "crosscoder", "--n-features", 64,
                "--l1-coefficient", 1e-3, *steps, "--out", "crosscoder")  # fmt: skip
        (folder / "each.toml").write_text(EACH)
        command("train", "mlps", "--config", "each.toml", "--out", "each")
        command("train", "mlps", "--kind", "topk_transcoder", "--n-features", 32, "--k", 4,
                "--at", "all", *steps, "--out", "same")  # fmt: skip
        command("evaluate", "cross_layer_transcoder", "crosscoder", "each", "--tokens", 1500,
                "--out", "results")  # fmt: skip
        command("compare", "results", "--out", "report.html")
    return folder


@pytest.fixture(scope="module")
def model():
    return dl.load_model("builtin:stories")


@pytest.fixture(scope="module")
def dictionaries(run):
    return {
        "clt": dl.load(run / "cross_layer_transcoder"),
        "crosscoder": dl.load(run / "crosscoder"),
    }


def test_each_target_and_all_together_are_evaluated(run):
    records = dl.Records.load(run / "results")
    names = set(records.dictionaries)
    assert {f"cross_layer_transcoder @ {hook}" for hook in MLPS} < names
    assert {f"crosscoder @ {hook}" for hook in STREAM} < names
    assert {f"topk_transcoder-{hook}" for hook in MLPS} < names
    assert "sae" in names
    estimates = {name: record.estimates for name, record in records.dictionaries.items()}
    assert estimates["cross_layer_transcoder"] == "running model"
    assert estimates["crosscoder"] == "clean pass"
    frame = records.to_pandas()["loss_recovered_zero"]
    assert frame["cross_layer_transcoder"] < frame[f"cross_layer_transcoder @ {MLPS[0]}"]
    assert 0.2 < frame["cross_layer_transcoder"] < 1
    report = (run / "report.html").read_text()
    assert f"cross_layer_transcoder @ {MLPS[3]}" in report


def test_a_config_file_and_options_say_the_same(run):
    for hook in MLPS:
        one, other = (dl.load(run / f / f"topk_transcoder-{hook}") for f in ("each", "same"))
        assert one.sites.target.hook == hook
        assert torch.equal(one.atoms, other.atoms)
    assert dl.load(run / "each" / "sae").sites.source.hook == MLPS[2]


def test_cards_concepts_and_agreement_take_them(dictionaries, model, tmp_path):
    tokens = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=3000)
    cards = dl.describe_features(dictionaries, model, tokens, 2, progress=False)
    written = {card.dictionary: card for card in cards.cards}
    assert written["clt"].promoted, "the outputs of all MLPs are added to the one stream"
    assert not written["crosscoder"].nearest
    cards.save(tmp_path)
    agreement = dl.compare_features(dictionaries, model, tokens, progress=False)
    assert "the other at" in agreement.pair("clt", "crosscoder").reasons["mmcs"]
    assert agreement.pair("clt", "crosscoder").correlation > 0
    agreement.save(tmp_path)
    documents = dl.load_tokens(
        "builtin:stories", model, split="held_out", n_tokens=4000, whole_documents=True
    )
    concepts = dl.evaluate_concepts(dictionaries, model, documents, [dl.Concept("comma", ",")])
    families = {(s.dictionary, s.family) for s in concepts.scores}
    assert {("clt", "neurons"), ("clt", "features"), ("crosscoder", "pca")} <= families
