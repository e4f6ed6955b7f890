"""Commands about dictionaries in folders, and what a command takes from them."""

import json
from dataclasses import replace

import pytest
import torch

import dictlearn as dl
from dictlearn.activations.tensors import TensorActivations
from dictlearn.cli import app, main
from dictlearn.cli.origins import origin
from dictlearn.config_files import swept
from dictlearn.core.errors import ConfigError, InputError, ProvenanceError
from dictlearn.core.provenance import Provenance
from dictlearn.text.corpora import source_hash

RUN = {"steps": 3, "batch_size": 32, "log_every": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two dictionaries, trained on random rows that claim to be of the built-in model."""
    folder = tmp_path_factory.mktemp("runs")
    site = dl.Site("blocks.0.mlp.hook_out", 128)
    rows = TensorActivations(
        torch.randn(256, 128, generator=torch.Generator().manual_seed(0)),
        sites=dl.Sites(site, site),
        provenance=Provenance(model="builtin:stories", text="builtin:stories", context=64),
    )
    configs = swept(dl.TopKSAEConfig, {"n_features": 16, "k": [2, 4]})
    dl.fit(configs, rows, dl.FitConfig(**RUN), out=folder, progress=False)
    return folder


def old(folder):
    """The row of a dictionary whose file does not have the learning rate that was used."""
    one = dl.load(folder)
    training = {"fit_config": one.provenance.training["fit_config"]}
    one.provenance = replace(one.provenance, training=training)
    return dl.overview({"old": one})


def said(capsys, *words):
    """What a command prints."""
    with pytest.raises(SystemExit) as ended:
        app([str(word) for word in words])
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


def test_a_sweep_crosses_what_has_several_values():
    found = swept(dl.TopKSAEConfig, {"n_features": [8, 16], "k": [2, 4], "k_aux": 3})
    assert {name: (c.n_features, c.k, c.k_aux) for name, c in found.items()} == {
        "topk_sae_n_features8_k2": (8, 2, 3),
        "topk_sae_n_features8_k4": (8, 4, 3),
        "topk_sae_n_features16_k2": (16, 2, 3),
        "topk_sae_n_features16_k4": (16, 4, 3),
    }
    lists = swept(dl.MatryoshkaSAEConfig, {"n_features": 8, "k": 2, "prefixes": [0.25, 0.5]})
    assert list(lists) == ["matryoshka_sae"], "a field that is a list has one value"
    with pytest.raises(ConfigError, match="no field 'kk'"):
        swept(dl.TopKSAEConfig, {"n_features": 8, "kk": [2, 4]})


def test_the_table_of_dictionaries_says_how_each_was_trained(folder, capsys):
    frame = dl.overview(folder)
    log = json.loads((folder / "train.jsonl").read_text().splitlines()[-1])
    for name, k in (("topk_sae_k2", 2), ("topk_sae_k4", 4)):
        row = frame.loc[name]
        assert row.settings == f"n_features=16, k={k}"
        assert row.l0 == log[f"{name}/l0"] == k
        assert (row.steps, row.batch_size, row.seed) == (3, 32, 0)
        assert row.learning_rate == dl.TopKSAEConfig.default_learning_rate
        assert row.rows == 3 * 32
        assert old(folder / name).learning_rate.item() == row.learning_rate
    text = said(capsys, "info", folder)
    assert "topk_sae_k4" in text
    assert "model builtin:stories; text builtin:stories; context 64" in text


def test_folders_without_a_dictionary_are_told_apart(folder, tmp_path):
    for path, words in (
        (folder / "topk_sae_k2" / "nothing", "there is no such folder$"),
        (folder / "topk_sea_k4", r"there is no such folder; did you mean 'topk_sae_k4' or"),
        (tmp_path, "this one has nothing in it$"),
        (folder / "train.jsonl", "this is a file$"),
    ):
        with pytest.raises(InputError, match=f"{path}: required a dictionary's folder.*{words}"):
            dl.overview(path)
    for name in "fabecd":
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"this one has a, b, c, d, e, …$"):
        dl.overview(tmp_path)


def test_info_shows_the_results_in_a_folder(folder, tmp_path, capsys):
    out, sae = tmp_path / "results", folder / "topk_sae_k2"
    said(capsys, "evaluate", sae, "--tokens", 500, "--no-check-model", "--out", out)
    text = said(capsys, "info", out, sae)
    assert f"{out}: results of an evaluation or a report, and no dictionary" in text.replace(
        "\n", " "
    ).replace("  ", " ")
    assert str(out / "report.html") in text.replace("\n", "")
    assert "FVU" in text
    assert "Dictionaries" in text, "and the dictionary is shown as one"
    with pytest.raises(InputError, match=r"this one has .*report\.html, results\.json"):
        dl.overview(out)


def test_representations_say_what_a_dictionary_is(folder):
    found = repr(dl.load(folder / "topk_sae_k4"))
    assert found == "topk_sae(16 features, k=4, blocks.0.mlp.hook_out of builtin:stories)"


def named(**settings):
    dictionary = dl.TopKSAEConfig(n_features=4, k=1).build(dl.Sites(*2 * [dl.Site("x", 2)]))
    dictionary.provenance = Provenance(**settings)
    return dictionary


def test_model_and_text_are_those_of_the_training_unless_given():
    own = {"model": "m", "text": "hf:t", "context": 8}
    both = {"a": named(**own), "b": named(**own)}
    assert origin(both) == ("m", "hf:t", {"context": 8}, True)
    assert origin(both, text="other") == ("m", "other", {}, True)
    assert origin(both, "other", context=4) == ("other", "hf:t", {"context": 4}, True)
    assert origin(both, "other").settings == {}
    found = origin(both, "path/m", "hf:t")
    assert found.settings == {"context": 8}, "the path of a model whose name they know"
    with pytest.raises(InputError, match="text 'notes', of which only the name is known"):
        origin({"a": named(model="m", text="notes")})
    assert origin({"a": named()})[:2] == ("builtin:stories", "builtin:stories")
    with pytest.raises(InputError, match=r"differ in their model: 'm' \(a\), 'n' \(b\).*--model"):
        origin({"a": named(model="m"), "b": named(model="n")})
    with pytest.raises(InputError, match="name a text with --text"):
        origin({"a": named(model="m")})


READ = {"column": "story", "ids_column": None, "dataset_split": None, "control_tokens": False,
        "separator": "<s>", "whole_documents": True}  # fmt: skip


def test_the_text_is_read_as_in_the_training_unless_told():
    own = {"model": "m", "text": "hf:t", "text_hash": "1", "text_settings": READ | {"later": 1}}
    sae = {"a": named(**own), "unknown": named(model="m")}
    assert origin(sae).settings == {**READ, "context": None}, "settings of later versions are not"
    found = origin(sae, column="text", separator=None, whole_documents=False)
    columns = {"column": "text", "whole_documents": False, "context": None}
    assert found.settings == {k: v for k, v in READ.items() if k != "ids_column"} | columns
    ids = {"a": named(**own | {"text_settings": READ | {"ids_column": "ids"}})}
    assert origin(ids).settings["ids_column"] == "ids"
    assert "ids_column" not in origin(ids, column="text").settings, "one stands for the other"
    assert origin(sae, text="hf:other", column="text").settings == {"column": "text"}
    other = {"b": named(**own | {"text_settings": READ | {"column": "text"}})}
    with pytest.raises(InputError, match=r"differ in their column: 'story' \(a\), 'text' \(b\)"):
        origin(sae | other)
    assert origin(sae | other, column="text").settings["column"] == "text"


def test_special_tokens_count_where_they_did_in_the_training():
    with_them = {"a": named(text="hf:t", text_hash="1", exclude_special=False)}
    assert not origin(with_them).exclude_special
    assert origin(with_them, include_special=False).exclude_special
    without = {"b": named(text="hf:t", text_hash="1"), "unknown": named()}
    assert origin(without).exclude_special
    assert not origin(without, include_special=True).exclude_special
    with pytest.raises(InputError, match=r"include-special: True \(a\), False \(b\)"):
        origin(with_them | without)


def test_a_local_model_and_text_are_found_where_they_were(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    text = tmp_path / "t.txt"
    text.write_text("a text")
    own = {"model": "m", "model_path": str(tmp_path / "m"), "text": "t.txt",
           "text_path": str(text), "text_files_hash": source_hash(text)}  # fmt: skip
    sae = {"a": named(**own), "b": named(**own | {"text_path": "/gone", "model_path": "/gone"})}
    assert origin(sae)[:2] == (str(tmp_path / "m"), str(text)), "the first place that is there"
    gone = {"b": sae["b"]}
    for call in (lambda: origin(gone, "m"), lambda: origin(gone, text="t.txt")):
        with pytest.raises(
            InputError, match=r"(text 't.txt'|model 'm') in /gone, .* --(text|model)"
        ):
            call()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        assert origin(gone)[:2] == ("m", "t.txt"), (
            "or one of that name in the folder of the command"
        )
    text.write_text("another text")
    for found in (sae, gone | {"a": sae["a"]}):
        with pytest.raises(ProvenanceError, match=r"t\.txt is not .* changed since; .* --text"):
            origin(found)
    assert origin(sae, text=str(text)).text == str(text), "as it is now"


def test_a_data_set_in_a_folder_is_found_too(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "a"}')
    place = str(tmp_path / "data")
    own = {"text": "hf:data:en", "text_path": place, "text_files_hash": source_hash(f"hf:{place}")}
    assert origin({"a": named(**own)}).text == f"hf:{place}:en"
    with pytest.raises(InputError, match="text 'hf:data:en' in /gone"):
        origin({"a": named(**own | {"text_path": "/gone"})})


def test_other_formats_there_and_back(folder, tmp_path, capsys):
    said(capsys, "export", folder / "topk_sae_k2", "--format", "saelens", "--out", tmp_path / "s")
    said(capsys, "import", f"saelens:{tmp_path / 's'}", "--out", tmp_path / "back")
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))
    own, back = dl.load(folder / "topk_sae_k2"), dl.load(tmp_path / "back")
    assert torch.allclose(own(x), back(x), atol=1e-5)


def test_cards_on_the_text_of_the_training(folder, tmp_path, capsys):
    text = said(capsys, "show", folder / "topk_sae_k2", "--features", "1,3", "--tokens", 500,
                "--out", tmp_path)  # fmt: skip
    assert "topk_sae_k2 1: active at" in text
    assert "topk_sae_k2 3: active at" in text
    assert "topk_sae_k2" in (tmp_path / "features.html").read_text()
    text = said(capsys, "show", folder, "--prompt", "Once upon", "--strongest", 1)
    assert [line.split(":")[0].split()[0] for line in text.splitlines()] == [
        "topk_sae_k2", "topk_sae_k4"
    ]  # fmt: skip


@pytest.mark.untyped  # typer passes a context of its own kind
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--kind topk_sae --n-features 8 --k 2 --lr 1", "did you mean '--learning-rate'"),
        ("--kind topk_sae --n-features 8 --kk 2", "did you mean '--k'"),
        ("--kind topk_sae --n-features 8 --k 2 --seed 0,0", "different ones, as in 0,1,2"),
    ],
)
def test_wrong_options_of_train_are_told_the_nearest(words, told, monkeypatch, capsys, tmp_path):
    command = f"dictlearn train {tmp_path} --out {tmp_path / 'out'} {words}"
    monkeypatch.setattr("sys.argv", command.split())
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())
