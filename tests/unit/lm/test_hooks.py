import gc
import weakref

import pytest

from dictlearn.core.errors import InputError
from dictlearn.lm.attention import fusable_attention
from dictlearn.lm.forward import reading
from dictlearn.lm.hooks import hook_names, hook_points, hooked, is_same_hook, require_hook


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


def test_a_bridge_is_asked_for_its_hooks_once(native, ids, monkeypatch):
    """It resolves all its aliases whenever it is asked, once for each function at a hook."""
    model, asked = native(), []
    whole = type(model).hook_dict
    monkeypatch.setattr(
        type(model), "hook_dict", property(lambda self: asked.append(1) or whole.fget(self))
    )
    read = []
    functions = [(name, lambda x, hook: read.append(hook)) for name in hook_names(model)[:5]]
    for _ in range(3):
        with hooked(model, functions):
            model(ids)
    assert len(asked) == 1
    assert len(read) == 15


def test_what_is_kept_of_a_model_does_not_keep_the_model(native, ids):
    model = native()
    with reading(model, ["blocks.1.hook_mlp_out"], fusable_attention(model)) as read:
        read(ids)
    gone = weakref.ref(model)
    del model, read
    gc.collect()
    assert gone() is None


def test_new_hooks_are_found(native):
    """Compatibility mode adds names; a component that is bound anew has other points."""
    model = native()
    known = dict(hook_points(model))
    model.enable_compatibility_mode(disable_warnings=True)
    assert hook_points(model).keys() == model.hook_dict.keys()
    name = "blocks.0.mlp.hook_out"
    model.blocks[0].mlp.hook_out = type(known[name])()
    model.clear_hook_registry()
    model._initialize_hook_registry()
    assert hook_points(model)[name] is model.blocks[0].mlp.hook_out is not known[name]


def test_hooks_end_with_the_context_also_where_all_were_dropped(native, ids):
    model, read = native(), []
    name = "blocks.0.mlp.hook_out"
    outer = [(name, lambda x, hook: read.append("outer"))]
    inner = [(name, lambda x, hook: read.append("inner"))]
    with hooked(model, outer):
        with hooked(model, inner):
            model(ids)
        model(ids)
        assert read == ["outer", "inner", "outer"]
        model.reset_hooks()
    model(ids)
    assert len(read) == 3
    assert not model.hook_dict[name].fwd_hooks
