"""Codebooks with an index of their codes: the right similarity, current codes, k codes a group."""

import importlib.util
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from dictlearn.contract.check import check_dictionary
from dictlearn.core.errors import ConfigError, InputError
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.codebook import SIMILARITIES, CodebookConfig
from dictlearn.dictionaries.files import load, save
from dictlearn.dictionaries.indexed import FlatIndex, IVFIndex, indexed
from dictlearn.dictionaries.residual_codebook import ResidualCodebookConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.kernels.search import exact_top_k

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="needs faiss: pip install dictlearn[faiss]"
)
each_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
each_exact_index = pytest.mark.parametrize("index", [FlatIndex(), IVFIndex(n_probes=60)], ids=str)


def rows(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(config, d=12):
    """A codebook whose codes differ in norm, so that every similarity chooses others."""
    site = Site("h", d)
    codebook = config.build(Sites(site, site), seed=0)
    with torch.no_grad():
        codebook.codes *= torch.logspace(-2, 2, config.n_codes, base=2).unsqueeze(1)
    return codebook


@needs_faiss
@pytest.mark.parametrize(
    ("similarity", "order"),
    [("cosine", [0, 1, 2]), ("inner_product", [2, 1, 0]), ("euclidean", [1, 0, 2])],
)
@pytest.mark.parametrize("index", [FlatIndex(), IVFIndex(n_cells=2, n_probes=2)], ids=str)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_codes_are_chosen_by_the_similarity_of_the_codebook(similarity, order, index, k):
    """To (2, 0), the first code is parallel, the second nearest, the third has most product."""
    codebook = built(CodebookConfig(n_codes=3, k=k, similarity=similarity), d=2)
    with torch.no_grad():
        codebook.codes.copy_(torch.tensor([[[0.5, 0.0], [2.0, 1.0], [9.0, 9.0]]]))
    acts = indexed(codebook, index).encode(torch.tensor([[2.0, 0.0]]))
    assert acts[0].nonzero().flatten().tolist() == sorted(order[:k])


@needs_faiss
@each_similarity
@each_exact_index
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("n", [0, 1, 200])
def test_a_search_of_all_codes_finds_the_best_of_every_group(similarity, index, norm, n):
    config = CodebookConfig(n_codes=60, k=4, n_groups=3, similarity=similarity, input_norm=norm)
    codebook, x = built(config), rows(n, 12, seed=1)
    acts = indexed(codebook, index).encode(x).unflatten(1, (3, 60))
    assert (acts.sum(dim=2) == 4).all()
    scores = codebook.scores(x, torch.arange(180)).unflatten(1, (3, 60))
    best = scores.topk(4, dim=2).values
    torch.testing.assert_close((scores * acts).sum(dim=2), best.sum(dim=2))


@needs_faiss
@each_exact_index
def test_every_stage_of_a_residual_codebook_is_searched(index):
    codebook, x = built(ResidualCodebookConfig(n_codes=60, n_stages=3)), rows(100, 12, seed=1)
    assert torch.equal(indexed(codebook, index).encode(x), codebook.encode(x))


@needs_faiss
@each_similarity
def test_recall_is_measured_against_the_exact_search(similarity):
    """Of 60 codes in as many cells, of which one is searched, one code is found in a cell."""
    codebook, x = built(CodebookConfig(n_codes=60, k=1, similarity=similarity)), rows(99, 12)
    assert indexed(codebook, FlatIndex()).search_recall(x) == 1.0
    recall = indexed(codebook, IVFIndex(n_cells=20, n_probes=1)).search_recall(x)
    assert 0.2 < recall < 1.0


@needs_faiss
def test_a_row_for_which_too_few_codes_are_found_is_searched_exactly():
    codebook, x = built(CodebookConfig(n_codes=60, k=8, n_groups=3)), rows(99, 12)
    approximate = indexed(codebook, IVFIndex(n_cells=60, n_probes=1))  # a code a cell, or about
    assert torch.equal(approximate.encode(x), codebook.encode(x))


@needs_faiss
@each_exact_index
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_contract_holds(index, dtype):
    for config in (CodebookConfig(n_codes=60, k=4, n_groups=3), ResidualCodebookConfig.tiny()):
        outcome = check_dictionary(indexed(built(config).to(dtype), index))
        assert outcome["sparse_equals_dense"] == "passed", outcome


@needs_faiss
@each_similarity
def test_changed_codes_are_never_searched(similarity):
    codebook, x = built(CodebookConfig(n_codes=60, n_groups=3, similarity=similarity)), rows(9, 12)
    copied, original = indexed(codebook), deepcopy(codebook)
    before = copied.encode(x)
    with torch.no_grad():
        codebook.codes.neg_()
    assert torch.equal(copied.encode(x), before)  # its own codes are as they were
    for change in (
        lambda dictionary: dictionary.load_state_dict(codebook.state_dict()),
        lambda dictionary: dictionary.codes.data[1, 2].neg_(),
        lambda dictionary: dictionary.to("meta"),
    ):
        change(changed := indexed(original))
        with pytest.raises(InputError, match="codes that its index was built from"):
            changed.encode(x.to(changed.codes.device))


@needs_faiss
@each_similarity
def test_a_conversion_to_float64_changes_no_code(similarity):
    codebook, x = built(CodebookConfig(n_codes=60, n_groups=3, similarity=similarity)), rows(9, 12)
    copied = indexed(codebook)
    before = copied.encode(x).double()
    assert torch.equal(copied.double().encode(x.double()), before)


@needs_faiss
def test_equal_groups_share_what_is_true_of_both():
    codebook, x = built(CodebookConfig(n_codes=60, k=2, n_groups=2)), rows(50, 12)
    with torch.no_grad():
        codebook.codes[1] = codebook.codes[0]
    assert torch.equal(indexed(codebook, FlatIndex()).encode(x), codebook.encode(x))


@needs_faiss
def test_only_the_search_differs(tmp_path):
    codebook, x = built(CodebookConfig(n_codes=60, k=4, n_groups=3)), rows(50, 12)
    approximate = indexed(codebook, IVFIndex(n_probes=1))
    assert codebook.search is exact_top_k
    assert (approximate.kind, approximate.traits) == (codebook.kind, codebook.traits)
    assert torch.equal(approximate.atoms, codebook.atoms)
    assert torch.equal(deepcopy(approximate).encode(x), approximate.encode(x))
    x.requires_grad_()
    assert torch.equal(approximate(x), approximate.decode(approximate.encode(x)))
    assert not torch.equal(approximate.encode(x), codebook.encode(x))
    save(approximate, tmp_path / "saved")
    assert torch.equal(load(tmp_path / "saved").encode(x), codebook.encode(x))


@needs_faiss
@pytest.mark.parametrize("first", ["faiss", "torch"])
def test_both_libraries_run_together_and_keep_their_threads(first):
    """Whether each has an OpenMP of its own depends on which was loaded first."""
    script = (
        f"import {first}, torch, faiss, dictlearn as dl\n"
        "faiss.omp_set_num_threads(2); torch.set_num_threads(1)\n"
        "threads = lambda: (torch.get_num_threads(), faiss.omp_get_max_threads())\n"
        "before = threads()\n"
        "site = dl.Site('h', 64)\n"
        "codebook = dl.CodebookConfig(n_codes=500).build(dl.Sites(site, site), seed=0)\n"
        "x = torch.randn(2_000, 64)\n"
        "same = dl.indexed(codebook, dl.FlatIndex()).encode(x) == codebook.encode(x)\n"
        "print(bool(same.float().mean() > 0.999), threads() == before, before[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[3], check=False,
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (["True", "True", "1"], "")


@needs_faiss
def test_a_small_index_is_built_without_a_warning(capfd):
    indexed(built(CodebookConfig(n_codes=60)), IVFIndex(n_cells=30))
    assert capfd.readouterr() == ("", "")


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install dictlearn\[faiss\]"):
        indexed(built(CodebookConfig(n_codes=60)))


def test_only_codebooks_have_an_index():
    site = Site("h", 12)
    with pytest.raises(InputError, match=r"needs a codebook or residual codebook, got .*'sae'"):
        indexed(SAEConfig(n_features=8).build(Sites(site, site), seed=0))
    with pytest.raises(InputError, match="on the CPU, got one on meta"):
        indexed(built(CodebookConfig(n_codes=60)).to("meta"))


@pytest.mark.parametrize("field", ["n_cells", "n_probes"])
def test_bad_parameters_are_refused(field):
    with pytest.raises(ConfigError, match=f"{field} must be a whole number of at least 1"):
        IVFIndex(**{field: 0})
