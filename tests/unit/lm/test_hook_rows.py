"""The table of hook points: every hook once, with the width that a site there has."""

import pytest

from dictlearn.core.errors import InputError
from dictlearn.lm.hook_rows import hook_rows
from dictlearn.lm.hooks import hook_names, is_same_hook
from dictlearn.lm.sites import hook_sites

GROUPED = {"positional_embedding_type": "rotary", "n_key_value_heads": 1, "gated_mlp": True}


@pytest.mark.parametrize("config", [{}, GROUPED])
def test_every_name_has_a_row_and_the_width_of_its_site(native, config):
    model = native(**config)
    rows = hook_rows(model)
    named = {
        name.replace("N", str(block)): row
        for row in rows
        for name in row.names
        for block in row.blocks or (0,)
    }
    assert sorted(named) == sorted(hook_names(model))
    for name, row in named.items():
        if row.width is None:
            with pytest.raises(InputError):
                hook_sites(model, name)
        else:
            assert hook_sites(model, name).source.d == row.width
    for row in rows:
        own = [name.replace("N", "0") for name in row.names]
        assert all(is_same_hook(model, own[0], other) for other in own)


def test_usual_names_come_first(native):
    first = {row.names[0] for row in hook_rows(native()) if row.blocks}
    assert {"blocks.N.hook_resid_pre", "blocks.N.hook_mlp_out", "blocks.N.mlp.hook_post"} <= first
