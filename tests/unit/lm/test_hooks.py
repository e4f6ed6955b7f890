import pytest

from dictlearn.core.errors import InputError
from dictlearn.lm.hooks import hook_names, hooked, is_same_hook, require_hook


def test_names_include_aliases(native) -> None:
    names = hook_names(native())
    assert {"blocks.0.mlp.hook_in", "blocks.1.hook_mlp_out", "blocks.0.attn.hook_z"} <= set(names)


def test_misspelt_hook_gets_the_nearest_names(native) -> None:
    require_hook(native(), "blocks.1.mlp.hook_out")
    with pytest.raises(InputError, match=r"did you mean .*'blocks\.1\.mlp\.hook_out'"):
        require_hook(native(), "blocks.1.mlp.hook_ot")


def test_hook_that_is_switched_off(native) -> None:
    model = native()
    off = ("blocks.0.hook_mlp_in", lambda activation, hook: None)
    with pytest.raises(InputError, match="use_hook_mlp_in"), hooked(model, [off]):
        pass
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_hooks_are_removed_on_error(native, ids) -> None:
    model = native()

    def fail(activation, hook) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), hooked(model, [("blocks.0.hook_out", fail)]):
        model(ids)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_aliases_are_known(native):
    model = native()
    assert is_same_hook(model, "blocks.0.hook_mlp_out", "blocks.0.mlp.hook_out")
    assert is_same_hook(model, "elsewhere", "elsewhere")
    assert not is_same_hook(model, "blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out")
    assert not is_same_hook(model, "nowhere", "elsewhere")
