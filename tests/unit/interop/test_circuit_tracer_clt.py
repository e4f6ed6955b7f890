"""Cross-layer transcoders in circuit-tracer's files."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import dictlearn as dl
from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.provenance import Provenance

LAYERS, D, N = 3, 4, 6


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def ours(request):
    """A cross-layer transcoder with units, weights and biases of no special value."""
    hooks = [
        [f"blocks.{i}.{name}" for i in range(LAYERS)] for name in ("mlp.hook_in", "mlp.hook_out")
    ]
    sites = dl.Sites(*(dl.Site(names, [D] * LAYERS) for names in hooks))
    d = dl.CrossLayerTranscoderConfig(n_features=N).build(sites).to(request.param)
    generator = torch.Generator().manual_seed(3)
    for tensor in (*d.parameters(), d.x_mean, d.y_mean):
        tensor.data = torch.randn(tensor.shape, generator=generator).to(request.param)
    d.standardize_(
        d.x_mean, sites.source.scale(torch.tensor([2.0, 0.5, 3.0]).unbind()), d.y_mean,
        sites.target.scale(torch.tensor([0.3, 4.0, 1.5]).unbind()),
    )  # fmt: skip
    d.provenance = Provenance(model="tiny")
    return d


@pytest.fixture
def x(ours):
    return torch.randn(50, LAYERS * D, generator=torch.Generator().manual_seed(1)).to(ours.atoms)


def theirs(folder, x):
    """Coefficients and estimates by definition: a layer writes itself and all later ones."""
    y = torch.zeros(len(x), LAYERS, D, dtype=x.dtype)
    all_acts = []
    for i in range(LAYERS):
        encoder = load_file(folder / f"W_enc_{i}.safetensors")
        decoder = load_file(folder / f"W_dec_{i}.safetensors")[f"W_dec_{i}"]
        assert decoder.shape == (N, LAYERS - i, D)
        read = x.unflatten(1, (LAYERS, D))[:, i]
        acts = (read @ encoder[f"W_enc_{i}"].T + encoder[f"b_enc_{i}"]).relu()
        y[:, i:] += torch.einsum("nf,fld->nld", acts, decoder)
        y[:, i] += encoder[f"b_dec_{i}"]
        all_acts.append(acts)
    return torch.cat(all_acts, dim=1), y.flatten(1)


def test_files_compute_the_same_and_come_back(ours, x, tmp_path):
    folder = dl.save(ours, tmp_path / "clt", format="circuit_tracer")
    acts, y = theirs(folder, x)
    assert 0.1 < (acts > 0).double().mean() < 0.9
    torch.testing.assert_close(acts, ours.encode(x))
    torch.testing.assert_close(y, ours(x))
    back = dl.load(f"circuit_tracer:{folder}")
    torch.testing.assert_close(back.encode(x), ours.encode(x))
    torch.testing.assert_close(back(x), ours(x))
    torch.testing.assert_close(back.atoms, ours.atoms)
    assert (back.sites, back.config, back.provenance.model) == (ours.sites, ours.config, "tiny")
    assert back.atoms.dtype == ours.atoms.dtype


def test_what_cannot_be_read_is_refused(ours, tmp_path):
    folder = dl.save(ours, tmp_path / "clt", format="circuit_tracer")
    file = folder / "W_enc_0.safetensors"
    tensors = load_file(file)
    for change, error, words in (
        ({"threshold_0": torch.ones(N)}, InputError, "have thresholds"),
        ({"W_skip_0": torch.ones(D, D)}, CorruptFileError, "holds W_skip_0"),
        ({"b_enc_0": torch.ones(N + 1)}, CorruptFileError, r"'b_enc_0' must have shape \(6\)"),
    ):
        save_file(tensors | change, file)
        with pytest.raises(error, match=words):
            dl.load(f"circuit_tracer:{folder}")
    file.unlink()
    with pytest.raises(CorruptFileError, match=r"without a gap, found \[1, 2\]"):
        dl.load(f"circuit_tracer:{folder}")


def test_what_cannot_be_written_is_refused(tmp_path):
    for hooks in (("a", "b"), ("blocks.1.out", "blocks.2.out"), ("blocks.0.x", "blocks.1.y")):
        ends = (dl.Site([f"{hook}.{end}" for hook in hooks], [D, D]) for end in ("in", "out"))
        d = dl.CrossLayerTranscoderConfig(n_features=N).build(dl.Sites(*ends))
        with pytest.raises(InputError, match="of all layers from 0 on"):
            dl.save(d, tmp_path / "clt", format="circuit_tracer")
    assert not (tmp_path / "clt").exists()
