"""Training inside a model: gradients and losses by hand, exact resume, processes, errors."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, kl_div

from dictlearn.core.batches import Batch
from dictlearn.core.errors import (
    ConfigError,
    CorruptFileError,
    InputError,
    NonFiniteError,
    ProvenanceError,
)
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.files import save
from dictlearn.dictionaries.pca import PCAConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.distributed.launching import launch
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetune import finetune
from dictlearn.finetuning.finetuned import Finetuned
from dictlearn.interventions.inside import inside
from dictlearn.lm.loading import load_model
from dictlearn.lm.patching import patched
from dictlearn.lm.sites import hook_sites
from tests.unit.finetuning import small
from tests.unit.finetuning.small import CONFIGS, MLP, RUN, Counting, Z, built, run, tensors
from tests.unit.interop import released

ROUNDING = 1e-10


def assert_equal(found, wanted, tolerance=0.0):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=tolerance, rtol=tolerance, msg=name)


class KilledError(Exception):
    pass


class Dying(Counting):
    """Blocks that fail once, at one step."""

    def __init__(self, at):
        self.at = at

    def sample(self, n, seed):
        if seed == self.at:
            self.at = None
            raise KilledError
        return super().sample(n, seed)


class Calling(Counting):
    """Blocks that call a function at a step before the last."""

    def __init__(self, function):
        self.function = function

    def sample(self, n, seed):
        if seed == RUN.steps - 3:
            self.function()
        return super().sample(n, seed)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, frozen):
    config = replace(RUN, model_learning_rate=None) if frozen else RUN
    whole = run(tmp_path / "whole", config)
    model, blocks = built(), Dying(at=8)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", config, model, blocks)
    assert (tmp_path / "killed" / "checkpoint.safetensors").is_file()
    assert not any(p.requires_grad for p in model.parameters())
    found = run(tmp_path / "killed", config, built(), blocks)
    assert_equal(tensors(found), tensors(whole))
    lines = [
        [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "rows_per_second")}
         for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]  # fmt: skip
    assert lines[0] == lines[1]
    assert_equal(tensors(run(None, config)), tensors(whole))


def test_a_checkpoint_continues_only_its_own_run(tmp_path):
    with pytest.raises(KilledError):
        run(tmp_path, RUN, built(), Dying(at=8))
    with pytest.raises(InputError, match=r"finetune_config\.model_learning_rate"):
        run(tmp_path, replace(RUN, model_learning_rate=2e-3))
    with pytest.raises(InputError, match="differs in model"):
        run(tmp_path, RUN, built(seed=1))


def test_a_model_that_a_killed_run_has_trained_is_loaded_again(tmp_path):
    model = built()
    with pytest.raises(KilledError):
        run(tmp_path, RUN, model, Dying(at=8))
    with pytest.raises(InputError, match=r"differs in model.*: load the model again"):
        run(tmp_path, RUN, model)
    ctrl_c = Calling(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="load the model again"):
        run(tmp_path, RUN, built(), ctrl_c)
    run(tmp_path, RUN)


def test_a_model_that_diverged_is_loaded_again():
    wild = replace(RUN, model_learning_rate=1e300, warmup_fraction=0.0, log_every=1)
    with pytest.raises(NonFiniteError, match="load the model again"):
        run(None, wild)
    with pytest.raises(NonFiniteError) as of_dictionaries:
        run(None, replace(wild, model_learning_rate=None, learning_rate=1e300))
    assert "again" not in str(of_dictionaries.value)


def test_two_processes_equal_one(tmp_path):
    launch(2, small.work, tmp_path)
    one = tensors(run(None))
    for rank in (0, 1):
        assert_equal(load_file(tmp_path / f"{rank}.safetensors"), one, ROUNDING)


def next_token(logits, ids):
    return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize(
    "config", [CodebookConfig(n_codes=24, k=2), TopKSAEConfig(n_features=24, k=3)],
    ids=lambda config: config.kind,
)  # fmt: skip
def test_gradients_are_those_of_the_loss_written_out(tmp_path, config):
    """After one step, Adam's first moment is a tenth of the gradient."""
    model, blocks = built(), Dying(at=1)
    d = config.build(hook_sites(model, MLP)).double()
    d.project_()
    settings = FinetuneConfig(
        steps=2, batch_size=8, model_learning_rate=1e-3, local_weight=0.5, dtype="float64",
        max_gradient_norm=None, checkpoint_every=1,
    )  # fmt: skip
    with pytest.raises(KilledError):
        finetune(built(), {"d": d}, blocks, settings, out=tmp_path, progress=False)
    state = load_file(tmp_path / "checkpoint.safetensors")

    model.requires_grad_(True)
    d.requires_grad_(True)
    target, ids = {}, Counting().sample(8, 0)
    with patched(model, {MLP: lambda y, at: target.update(y=y)}), inside(model, d):
        loss = next_token(model(ids), ids)
    y = target["y"].detach().flatten(0, 1)
    own = torch.stack(list(config.objective()(d.fit_pass(Batch(y, y))).values())).sum()
    (loss + 0.5 * own).backward()
    d.project_gradient_()
    wanted = {
        f"model/{n.replace('._original_component', '')}": p for n, p in model.named_parameters()
    }
    wanted |= {f"dictionaries/d/{n}": p for n, p in d.named_parameters()}
    checked = 0
    for name, parameter in wanted.items():
        if parameter.grad is not None:
            moment = state[f"model//adam/{name}/exp_avg"]
            torch.testing.assert_close(moment, 0.1 * parameter.grad, atol=1e-14, rtol=1e-9)
            checked += bool(parameter.grad.any())
    assert checked > 20


def test_the_local_loss_does_not_reach_the_model():
    """With ten times its weight, the model takes the same step bit for bit."""
    first, second = (
        run(None, replace(RUN, steps=1, local_weight=weight, max_gradient_norm=None))
        for weight in (1.0, 10.0)
    )
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.dictionaries["tc"].W_enc, second.dictionaries["tc"].W_enc)


def test_the_model_is_frozen_without_a_rate():
    model = built()
    before = [p.clone() for p in model.parameters()]
    found = run(None, replace(RUN, model_learning_rate=None), model)
    assert found.model is model
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not b.requires_grad
    assert all(not p.grad_fn for p in model.parameters())


def test_what_is_logged_is_the_loss_of_the_model_inside(tmp_path):
    """At step 1, before anything is learned, of dictionaries that were given."""
    model, ids = built(), Counting().sample(8, 0)
    ds = {"z": CodebookConfig(n_codes=8, n_groups=2).build(hook_sites(model, Z)).double()}
    with torch.no_grad(), inside(model, ds):
        logits = model(ids)
    config = FinetuneConfig(steps=1, batch_size=8, log_every=1, dtype="float64")
    finetune(model, ds, Counting(), config, out=tmp_path / "ce", progress=False)
    line = json.loads((tmp_path / "ce" / "train.jsonl").read_text())
    assert line["model/model_loss"] == pytest.approx(float(next_token(logits, ids)), rel=1e-9)
    assert line["model/loss"] == pytest.approx(
        line["model/model_loss"] + line["model/z/loss"], rel=1e-9
    )
    assert line["model/z/l0"] == line["model/l0"] == 2
    clean = model(ids)[:, :-1].flatten(0, 1).log_softmax(1)
    kl = kl_div(
        logits[:, :-1].flatten(0, 1).log_softmax(1), clean, reduction="none", log_target=True
    )
    finetune(model, ds, Counting(), replace(config, match_clean=True), out=tmp_path / "kl",
             progress=False)  # fmt: skip
    line = json.loads((tmp_path / "kl" / "train.jsonl").read_text())
    assert line["model/model_loss"] == pytest.approx(float(kl.sum(1).mean()), rel=1e-9)


def test_a_model_learns_from_scratch_and_then_through_codes():
    model = built(torch.float32)
    ids = Counting().sample(64, 10**6)
    start = float(next_token(model(ids), ids))
    base = FinetuneConfig(steps=300, batch_size=32, model_learning_rate=3e-3)
    assert finetune(model, {}, Counting(), base, progress=False).dictionaries == {}
    plain = float(next_token(model(ids), ids))
    assert plain < start - 1
    codes = {Z: CodebookConfig(n_codes=64, n_groups=2), MLP: CodebookConfig(n_codes=64)}
    both = replace(base, steps=200, model_learning_rate=3e-4, learning_rate=3e-3)
    found = finetune(model, codes, Counting(), both, progress=False)
    with torch.no_grad(), inside(model, found.dictionaries):
        through = float(next_token(model(ids), ids))
    assert through < plain + 0.2


def test_blocks_of_tokens_come_in_shuffled_epochs():
    ids = Counting().sample(20, 3)
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), "counting", "train", "hash")
    settings = FinetuneConfig(steps=5, batch_size=4, dtype="float64")
    codes = {MLP: CodebookConfig(n_codes=8)}
    found = finetune(built(), codes, tokens, settings, progress=False)
    assert list(found.dictionaries) == [MLP]


def test_the_number_of_codes_falls():
    found = run(None)
    assert found.dictionaries[Z].k == CONFIGS[Z].k
    assert [RUN.k_at(step, 2) for step in range(12)] == [4, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2]


@pytest.mark.untyped
def test_errors():
    model = built()
    codes = {MLP: CodebookConfig(n_codes=8)}
    for match, arguments in (
        ("required FinetuneConfig", (codes, Counting(), 3)),
        ("not have|no hook", ({"blocks.0.mlp.hook_oot": CodebookConfig(n_codes=8)}, Counting())),
        ("becomes a folder", ({"a/b": CodebookConfig(n_codes=8)}, Counting())),
        ("learns by gradients", ({MLP: PCAConfig(k=2)}, Counting())),
        (r"sample\(n, seed\)", (codes, "text")),
    ):
        with pytest.raises(InputError, match=match):
            finetune(model, *arguments, progress=False)
    with pytest.raises(ConfigError, match="match_clean must be off"):
        FinetuneConfig(match_clean=True, model_learning_rate=1e-3)
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


def test_a_run_is_loaded_from_its_folder(tmp_path):
    found = run(tmp_path, RUN)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json", "dictionaries", "dictlearn.files", "model", "train.jsonl",
    ]  # fmt: skip
    again = Finetuned.load(tmp_path)
    ids = Counting().sample(3, 9)
    with torch.no_grad(), found.inside(), again.inside():
        assert torch.equal(found.model(ids), again.model(ids))
    assert again.settings["finetune_config"]["model_learning_rate"] == RUN.model_learning_rate
    told = again.dictionaries["tc"].provenance.training
    assert told["finetune_config"]["steps"] == RUN.steps
    assert told["rows"] == RUN.steps * Counting().sample(RUN.batch_size, 0).numel()
    assert told["final"] == last_of_log(tmp_path, "tc")
    assert told["learning_rate"] == RUN.peak_learning_rate(again.dictionaries["tc"].config)
    with pytest.raises(InputError, match="already in"):
        run(tmp_path, RUN)
    finetune(built(), {}, Counting(), replace(RUN, steps=1, k_start=None), out=tmp_path,
             overwrite=True, progress=False)  # fmt: skip
    assert Finetuned.load(tmp_path).dictionaries == {}
    with pytest.raises(CorruptFileError, match="use load"):
        Finetuned.load(dl_folder(tmp_path / "d"))


def last_of_log(folder, name):
    (*_, line) = (folder / "train.jsonl").read_text().splitlines()
    start = f"model/{name}/"
    return {k.removeprefix(start): v for k, v in json.loads(line).items() if k.startswith(start)}


def dl_folder(path):
    return save(CodebookConfig(n_codes=4).build(hook_sites(built(), MLP)), path)


FROZEN = FinetuneConfig(steps=1, batch_size=4)
CODES = {MLP: CodebookConfig(n_codes=8)}


def test_a_frozen_model_is_given(tmp_path):
    finetune(built(), CODES, Counting(), FROZEN, out=tmp_path, progress=False)
    assert not (tmp_path / "model").exists()
    assert list(Finetuned.load(tmp_path, built()).dictionaries) == [MLP]
    with pytest.raises(ProvenanceError, match="used on"):
        Finetuned.load(tmp_path, built(seed=1))
    with pytest.raises(
        InputError, match=r"Finetuned.load\(folder, model\), or as --model \(it was"
    ):
        Finetuned.load(tmp_path)


def test_a_frozen_model_of_a_folder_is_that_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    released.base_model("gpt2").save_pretrained("base")
    for name in ("base", tmp_path / "base"):
        out = tmp_path / str(len(str(name)))
        at = {"blocks.0.hook_mlp_out": CODES[MLP]}
        finetune(load_model(name), at, Counting(), FROZEN, out=out, progress=False)
        found = Finetuned.load(out)
        assert found.model.cfg.loaded_from == str((tmp_path / "base").resolve())
        found = Finetuned.load(out, "base", check=False)
        assert found.model.cfg.model_check == "skipped"
        assert Finetuned.load(out, "base").model.cfg.model_check == "equal"


def test_a_frozen_model_is_loaded_by_a_name_that_is_still_its_own(tmp_path):
    model, at = load_model("builtin:stories"), {"blocks.0.hook_mlp_out": CODES[MLP]}
    finetune(model, at, Counting(), FROZEN, out=tmp_path / "a", progress=False)
    found = Finetuned.load(tmp_path / "a")
    assert found.model is not model
    with torch.no_grad():
        next(iter(model.parameters())).add_(1)
    finetune(model, at, Counting(), FROZEN, out=tmp_path / "b", progress=False)
    with pytest.raises(
        ProvenanceError, match=r"--model \(from builtin:stories: .*'builtin:stories'"
    ):
        Finetuned.load(tmp_path / "b")
    assert Finetuned.load(tmp_path / "b", model).model is model


def test_a_folder_with_its_own_model_needs_no_other(tmp_path):
    trained = replace(FROZEN, model_learning_rate=1e-3)
    finetune(built(), CODES, Counting(), trained, out=tmp_path, progress=False)
    with pytest.raises(InputError, match="holds a model of its own"):
        Finetuned.load(tmp_path, model=built())
