"""The comparison of searches: what it counts, and that its contenders find the same codes."""

import importlib.util
import sys

import pytest
import torch

from benchmarks import search
from benchmarks.search import Case, built, clustered, gaussian, product_and_top_k, recall


def test_recall_counts_what_was_found_of_each_row():
    exact = torch.tensor([[0, 5, 9, 4], [1, 2, 3, 4]])
    found = torch.tensor([[4, 9, 6, 7], [8, 9, 7, 1]])
    assert recall(found, exact) == 3 / 8
    assert recall(exact.flip(1), exact) == 1.0
    assert recall(exact + 10, exact) == 0.0


@pytest.mark.parametrize("rows", [gaussian, clustered])
@pytest.mark.parametrize("k", [1, 3])
def test_one_product_finds_the_same_codes(rows, k):
    case = Case(n_groups=3, n_codes=40, d=8, k=k, n=50)
    codes, x = rows(case)
    codebook, z = built(case, codes), x.flatten(1)
    assert torch.equal(codebook.codes, codes)
    found = product_and_top_k(codebook, z)
    assert torch.equal(found.sort(dim=1).values, codebook._chosen(z).sort(dim=1).values)


def test_clustered_inputs_are_near_a_code():
    codes, x = clustered(Case(n_groups=2, n_codes=300, d=64, k=1, n=200))
    distances = torch.cdist(x.transpose(0, 1), codes).min(dim=2).values
    assert distances.pow(2).mean().div(64).item() == pytest.approx(1 / 4, rel=0.1)


@pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="needs faiss: pip install dictlearn[faiss]"
)
def test_a_quick_run_compares_every_search_and_writes_nothing(monkeypatch, tmp_path, capsys):
    page = tmp_path / "search.md"
    monkeypatch.setattr(search, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["search", "--quick"])
    threads = torch.get_num_threads()
    search.main()
    torch.set_num_threads(threads)
    table = capsys.readouterr().out
    assert table.count("faster than dictlearn's") == 2 * len(search.QUICK)
    assert not page.exists()
    assert "# Searches for codes" in search.head(2, 1.0, "abc")
