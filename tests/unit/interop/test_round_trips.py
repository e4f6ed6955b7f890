"""Every kind through every format that can hold it: the same coefficients, the same estimates."""

from dataclasses import replace

import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import InputError, StorageError
from dictlearn.core.file_lists import LIST_FILE

KINDS = {
    "sae": dl.SAEConfig(n_features=10),
    "topk": dl.TopKSAEConfig(n_features=10, k=3),
    "batchtopk": dl.BatchTopKSAEConfig(n_features=10, k=3),
    "jumprelu": dl.JumpReLUSAEConfig(n_features=10),
    "gated": dl.GatedSAEConfig(n_features=10),
    "transcoder": dl.TranscoderConfig(n_features=10),
    "skip": dl.TranscoderConfig(n_features=10, linear_skip=True),
    "topk_transcoder": dl.TopKTranscoderConfig(n_features=10, k=3),
    "topk_skip": dl.TopKTranscoderConfig(n_features=10, k=3, linear_skip=True),
    "batchtopk_transcoder": dl.BatchTopKTranscoderConfig(n_features=10, k=3),
    "jumprelu_transcoder": dl.JumpReLUTranscoderConfig(n_features=10),
    "jumprelu_skip": dl.JumpReLUTranscoderConfig(n_features=10, linear_skip=True),
    "matryoshka": dl.MatryoshkaSAEConfig(n_features=10, k=3, prefixes=(0.2, 0.5)),
}
HOLDS = {
    "saelens": set(KINDS) - {"topk_transcoder", "topk_skip"},
    "dictionary_learning": {name for name in KINDS if "skip" not in name},
    "sparsify": {"topk", "topk_transcoder", "topk_skip"},
    "circuit_tracer": {name for name in KINDS if "transcoder" in name or "skip" in name},
}
HELD = [(format, name) for format, names in HOLDS.items() for name in sorted(names)]
NOT_HELD = [(format, name) for format in HOLDS for name in sorted(KINDS.keys() - HOLDS[format])]
BECOMES = {
    "batchtopk": "jumprelu",
    "matryoshka": "jumprelu",
    "batchtopk_transcoder": "jumprelu_transcoder",
}
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(("format", "name"), HELD)
def test_what_comes_back_computes_the_same(format, name, dtype, scrambled, rows, tmp_path):
    ours = scrambled(KINDS[name], dtype)
    path = dl.save(ours, tmp_path / "set", format=format)
    back = dl.load(f"{format}:{path}")
    x = rows.to(dtype)
    acts = ours.encode(x)
    assert 0.1 < (acts > 0).double().mean() < 0.9
    close = {"atol": CLOSE[dtype], "rtol": CLOSE[dtype]}
    torch.testing.assert_close(back.encode(x), acts, **close)
    torch.testing.assert_close(back(x), ours(x), **close)
    torch.testing.assert_close(back.atoms, ours.atoms, **close)
    if ours.skip(x) is None:
        torch.testing.assert_close(back.decode(acts), ours.decode(acts), **close)
    else:  # what the skip makes of the source's mean is part of the bias there
        offset = ours.skip(torch.zeros_like(x[:1]))
        torch.testing.assert_close(back.decode(acts), ours.decode(acts) + offset, **close)
    assert back.atoms.dtype == dtype
    assert not back.training
    torch.testing.assert_close(back.encode_sparse(x).to_dense(), back.encode(x), **close)


@pytest.mark.parametrize(("format", "name"), HELD)
def test_kind_sites_and_origin_come_back(format, name, scrambled, tmp_path):
    ours = scrambled(KINDS[name])
    back = dl.load(f"{format}:{dl.save(ours, tmp_path / 'set', format=format)}")
    thresholds = format in ("saelens", "circuit_tracer")  # what batch top-k becomes there
    becomes = BECOMES.get(name, name) if thresholds else name
    assert back.config == KINDS[becomes]
    assert back.sites == ours.sites
    assert back.provenance.model == "tiny"
    if format != "circuit_tracer":  # whose config is shared by the whole set
        assert back.provenance == ours.provenance


@pytest.mark.parametrize("format", HOLDS)
def test_no_path_of_the_disk_is_published(format, scrambled, tmp_path):
    ours = scrambled(KINDS["topk_transcoder" if format != "saelens" else "topk"])
    ours.provenance = replace(ours.provenance, model_path="/private/m", text_path="/private/t.txt")
    dl.save(ours, tmp_path / "theirs", format=format)
    written = [path.read_bytes() for path in (tmp_path / "theirs").rglob("*") if path.is_file()]
    assert written
    assert not any(b"/private" in data or b"_path" in data for data in written)


@pytest.mark.parametrize(("format", "name"), HELD)
def test_what_comes_back_is_one_of_ours(format, name, scrambled, rows, tmp_path):
    """It obeys the contract, and saving it in our own format changes no bit."""
    ours = scrambled(KINDS[name], torch.float32)
    back = dl.load(f"{format}:{dl.save(ours, tmp_path / 'set', format=format)}")
    assert dl.check_dictionary(back, rows)["save_and_load"] == "passed"


@pytest.mark.parametrize(("format", "name"), NOT_HELD)
def test_what_a_format_cannot_hold_is_refused(format, name, scrambled, tmp_path):
    with pytest.raises(InputError, match=r"circuit-tracer|SAELens|sparsify|dictionary_learning"):
        dl.save(scrambled(KINDS[name]), tmp_path / "set", format=format)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("format", HOLDS)
@pytest.mark.parametrize(
    "config", [dl.CodebookConfig(n_codes=4), dl.PCAConfig(), dl.RandomConfig(n_features=4, k=1)]
)
def test_a_codebook_cannot_be_expressed(format, config, scrambled, tmp_path):
    with pytest.raises(InputError, match=f"'{config.kind}' is none of these.* without format="):
        dl.save(scrambled(config), tmp_path / "set", format=format)


def test_a_subclass_of_a_kind_is_not_taken_for_it(scrambled, tmp_path):
    sae = scrambled(KINDS["sae"])

    class Doubled(type(sae)):
        def _encode(self, z):
            return 2 * super()._encode(z)

    sae.__class__ = Doubled
    with pytest.raises(InputError, match="cannot be expressed"):
        dl.save(sae, tmp_path, format="saelens")


def test_unknown_formats_are_suggested(scrambled, tmp_path):
    with pytest.raises(InputError, match="did you mean 'saelens'"):
        dl.save(scrambled(KINDS["sae"]), tmp_path, format="sae_lens")
    with pytest.raises(InputError, match="did you mean 'sparsify'"):
        dl.load(f"sparsifi:{tmp_path}")


def test_a_folder_whose_name_has_a_colon_is_a_folder(scrambled, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = scrambled(KINDS["sae"], torch.float32)
    dl.save(ours, "saelens:mine")
    assert torch.equal(dl.load("saelens:mine")(rows), ours(rows))


def test_sites_are_for_files_that_may_not_know_them(scrambled, tmp_path):
    ours = scrambled(KINDS["topk"], torch.float32)
    site = dl.Site("blocks.0.hook_resid_pre", 6)
    path = dl.save(ours, tmp_path / "theirs", format="sparsify")
    assert dl.load(f"sparsify:{path}", sites=dl.Sites(site, site)).sites.source == site
    wide = dl.Site("blocks.0.hook_resid_pre", 7)
    with pytest.raises(InputError, match=r"width 6 to width 6.*widths 7 and 7"):
        dl.load(f"sparsify:{path}", sites=dl.Sites(wide, wide))
    with pytest.raises(InputError, match="knows its sites"):
        dl.load(dl.save(ours, tmp_path / "ours"), sites=dl.Sites(site, site))


def test_an_autoencoder_at_two_sites_is_a_transcoder(scrambled, rows, tmp_path):
    """Subtracting a bias first is a matter of the encoder's bias."""
    ours = scrambled(KINDS["topk"])
    path = dl.save(ours, tmp_path, format="sparsify")
    across = dl.Sites(dl.Site("x", 6), dl.Site("y", 6))
    back = dl.load(f"sparsify:{path}", sites=across)
    assert back.config == dl.TopKTranscoderConfig(n_features=10, k=3)
    torch.testing.assert_close(back(rows), ours(rows))
    gated = dl.save(scrambled(KINDS["gated"]), tmp_path / "gated", format="saelens")
    with pytest.raises(InputError, match="no kind can be one"):
        dl.load(f"saelens:{gated}", sites=across)


def test_a_failed_write_leaves_no_config(scrambled, tmp_path, monkeypatch):
    """An interrupted overwrite must not pair an old config with new weights."""

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for format, weights in (("saelens", "save_file"), ("dictionary_learning", None)):
        ours = scrambled(KINDS["topk"])
        folder = dl.save(ours, tmp_path / format, format=format)
        with monkeypatch.context() as patch:
            patch.setattr(f"dictlearn.core.files.{weights}" if weights else "torch.save", fail)
            with pytest.raises(StorageError, match="No space left"):
                dl.save(ours, folder, format=format)
        assert not list(folder.glob("*.json"))
        assert not list(folder.glob(".*part"))


@pytest.mark.parametrize("format", ["saelens", "dictionary_learning", "sparsify"])
def test_files_of_another_library_are_not_overwritten(scrambled, tmp_path, format):
    ours = scrambled(KINDS["topk"])
    made = dl.save(ours, tmp_path / "made", format=format)
    for file in (p.name for p in made.iterdir() if p.name != LIST_FILE):
        (tmp_path / file).mkdir()
        (tmp_path / file / file).write_text("theirs")
        with pytest.raises(InputError, match=f"{file} is not a file that an export wrote"):
            dl.save(ours, tmp_path / file, format=format)
        assert [p.read_text() for p in (tmp_path / file).iterdir()] == ["theirs"]
    dl.save(ours, made, format=format)
    if format == "dictionary_learning":  # whose config has the name of ours
        with pytest.raises(InputError, match=r"config.json .* another kind of run, an export"):
            dl.save(ours, made)
