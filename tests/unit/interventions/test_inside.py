"""Models that run through dictionaries: identities, hand-built splices, gradients, errors."""

import pytest
import torch
from torch.nn.functional import cross_entropy, layer_norm

from dictlearn.core.batches import Batch
from dictlearn.core.errors import InputError, ProvenanceError
from dictlearn.core.sites import Site, Sites
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.cross_layer_transcoder import CrossLayerTranscoderConfig
from dictlearn.dictionaries.crosscoder import CrosscoderConfig
from dictlearn.dictionaries.registry import KINDS
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.harvesting import harvest
from dictlearn.interventions.choice import Activate, Disable
from dictlearn.interventions.direction import Cap, ProjectOut, Push
from dictlearn.interventions.edit import Ablate, Add, Clamp, Scale
from dictlearn.interventions.features import Substitute
from dictlearn.interventions.inside import inside
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.patching import patched
from dictlearn.lm.sites import hook_sites
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit


@pytest.fixture(scope="module")
def model(native):
    return native(act_fn="relu")


@pytest.fixture(scope="module")
def dictionaries(model):
    """One of every kind, trained a little at the first MLP; the cross-layer one at both."""
    ids = torch.randint(40, (64, 12), generator=torch.Generator().manual_seed(3))
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), "random", "train", "0")
    sites = [mlp_sites(model, layer) for layer in (0, 1)]
    activations = harvest(model, tokens, sites)
    configs = {kind.kind: kind.tiny() for kind in KINDS}
    at = {name: sites[0] for name in configs if name != CrossLayerTranscoderConfig.kind}
    run = FitConfig(steps=40, batch_size=128, standardize_rows=512, learning_rate=1e-2)
    return fit(configs, activations, run, sites=at, progress=False)


def by_hand(model, dictionary, ids, change, *, keep_error):
    """The logits with dense coefficients, changed by a function of them, spliced in by hand."""
    sites, read, width = dictionary.sites, {}, 0
    source, calls = (sites.source.hooks, sites.source.widths), []

    def read_source(name):  # the hook's own name may be an alias
        return lambda x, hook: read.update({name: x.flatten(2)})

    def write(name, first, y, hook):
        own = y.flatten(2)
        if name in sites.source.hooks:
            read[name] = own
        x = torch.cat([read.get(h, own.new_zeros(*own.shape[:2], d)).flatten(0, 1)
                       for h, d in zip(*source, strict=True)], 1)  # fmt: skip
        old = dictionary.encode(x).view(*own.shape[:2], -1)
        part = slice(first, first + own.shape[2])
        atoms = dictionary.atoms[:, part]
        new = change(old.clone(), x)
        calls.append(new)
        if keep_error:
            return (own + (new - old) @ atoms).view_as(y)
        skip = dictionary.skip(x)
        rest = 0 if skip is None else skip[:, part].view_as(own)
        return (new @ atoms + dictionary.bias[part] + rest).view_as(y)

    hooks = [(h, read_source(h)) for h in sites.source.hooks if h not in sites.target.hooks]
    for name, d in zip(sites.target.hooks, sites.target.widths, strict=True):
        hooks.append((name, lambda y, hook, name=name, first=width: write(name, first, y, hook)))
        width += d
    with torch.no_grad():
        return model.run_with_hooks(ids, fwd_hooks=hooks), calls[-1]


each_kind = pytest.mark.parametrize("kind", [kind.kind for kind in KINDS])


@each_kind
def test_without_edits_and_with_the_error_no_bit_changes(model, dictionaries, ids, kind):
    clean = model(ids)
    with inside(model, dictionaries[kind], keep_error=True) as running:
        assert torch.equal(model(ids), clean)
        assert running["dictionary"].dense().shape == (3, 12, dictionaries[kind].n_features)
    assert torch.equal(model(ids), clean), "nothing is left on the model"


@each_kind
@pytest.mark.parametrize("keep_error", [False, True])
def test_every_edit_of_coefficients_equals_a_splice_by_hand(
    model, dictionaries, ids, kind, keep_error
):
    d = dictionaries[kind]
    if d.n_features < 2:  # the mean has no features, and nothing to edit
        return
    f = int(d.encode_sparse(torch.randn(50, d.sites.source.d)).firing_counts().argmax())
    g = (f + 1) % d.n_features

    def set_(value):
        def change(acts, x):
            acts[..., [f, g]] = value(acts[..., [f, g]])
            return acts

        return change

    for edits, change in (
        ((), lambda acts, x: acts),
        (Ablate((f, g)), set_(torch.zeros_like)),
        (Clamp([f, g], 2.5), set_(lambda a: torch.full_like(a, 2.5))),
        ([Scale(f, 3.0), Scale(g, 3.0), Add((f, g), 0.5)], set_(lambda a: 3 * a + 0.5)),
    ):
        wanted, features = by_hand(model, d, ids, change, keep_error=keep_error)
        with inside(model, d, edits=edits, keep_error=keep_error) as running:
            found = model(ids)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(running["dictionary"].dense(), features, atol=1e-4, rtol=1e-4)


@each_kind
def test_directions_equal_a_change_by_hand(model, dictionaries, ids, kind):
    d = dictionaries[kind]
    if len(d.sites.target.hooks) > 1 or d.n_features < 2:
        return
    feature = int(d.atoms.norm(dim=1).argmax())
    unit = d.atoms[feature] / d.atoms[feature].norm()
    vector = torch.arange(1.0, d.sites.target.d + 1)
    along = vector / vector.norm()
    for edit, by_formula in (
        (Push(feature, -3.0), lambda y: y - 3 * unit),
        (ProjectOut(vector), lambda y: y - (y @ along)[..., None] * along),
        (Cap(feature, 0.05), lambda y: y - (y @ unit - 0.05).clamp(min=0)[..., None] * unit),
    ):
        hook = [(d.sites.target.hook, lambda y, hook, f=by_formula: f(y))]
        wanted = model.run_with_hooks(ids, fwd_hooks=hook)
        with inside(model, d, edits=edit, keep_error=True):
            torch.testing.assert_close(model(ids), wanted, atol=1e-4, rtol=1e-4)


@each_kind
def test_an_edit_at_one_position_leaves_earlier_logits_bit_equal(model, dictionaries, ids, kind):
    d = dictionaries[kind]
    if d.n_features < 2:
        return
    features = tuple(range(d.n_features))
    for keep_error in (False, True):
        with inside(model, d, keep_error=keep_error):
            before = model(ids)
        with inside(model, d, edits=Add(features, 1.0, positions=7), keep_error=keep_error):
            after = model(ids)
        assert torch.equal(before[:, :7], after[:, :7])
        assert not torch.equal(before[:, 7:], after[:, 7:])


def chosen_by_hand(d, x, slots):
    """Coefficients from [n, group, k] slots of code numbers, -1 for an empty one."""
    acts = torch.zeros(len(x), d.n_features)
    for i, row in enumerate(slots.tolist()):
        for group, codes in enumerate(row):
            for code in codes:
                if code >= 0:
                    acts[i, group * d.n_codes + code] += 1
    return acts


@pytest.fixture(scope="module")
def heads(model):
    """A codebook for each head, and an independent ranking of its codes."""
    sites = hook_sites(model, "blocks.0.attn.hook_z")
    n = model.cfg.n_heads
    d = CodebookConfig(n_codes=9, k=3, n_groups=n, combine="mean").build(sites, seed=1)

    def ranked(x):
        chunks = x.view(len(x), n, -1)
        codes = d.codes / d.codes.norm(dim=2, keepdim=True)
        return torch.einsum("ngd,gcd->ngc", chunks, codes).argsort(-1, descending=True)

    return d, ranked


@pytest.mark.parametrize("keep_error", [False, True])
def test_codes_in_slots(model, ids, heads, keep_error):
    d, ranked = heads
    k, size = d.k, d.n_codes

    def put(f):
        return lambda acts, x: chosen_by_hand(d, x, f(ranked(x))).view_as(acts)

    def last(order):  # codes 2 and 5 of the first head
        slots = order[..., :k].clone()
        slots[:, 0, k - 1], slots[:, 0, k - 2] = 2, 5
        return slots

    def all_(order):
        slots = order[..., :k].clone()
        slots[:, 1] = 4
        return slots

    off = torch.tensor([0, 3, 7])

    def refill(order):
        slots = order[..., :k].clone()
        for i, row in enumerate(order[:, 0]):
            slots[i, 0] = torch.tensor([c for c in row.tolist() if c not in off.tolist()][:k])
        return slots

    def empty(order):
        slots = order[..., :k].clone()
        slots[:, 0] = slots[:, 0].masked_fill(torch.isin(slots[:, 0], off), -1)
        return slots

    for edit, f in (
        (Activate((2, 5)), last),
        (Activate(size + 4, "all"), all_),
        (Disable((0, 3, 7)), refill),
        (Disable((0, 3, 7), "empty"), empty),
    ):
        wanted, features = by_hand(model, d, ids, put(f), keep_error=keep_error)
        with inside(model, {"z": d}, edits=edit, keep_error=keep_error) as running:
            torch.testing.assert_close(model(ids), wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(running["z"].dense(), features)


def test_edits_compose_in_their_order(model, ids, heads):
    d, _ = heads
    with inside(model, d) as running:
        model(ids)
    plain = running["dictionary"].dense()
    with inside(model, d, edits=[Disable((0, 3), "empty"), Activate(8)]) as running:
        model(ids)
    found = running["dictionary"].dense()[..., :9]
    assert torch.all(found[..., [0, 3]] == 0)
    freed = plain[..., [0, 3]].sum(-1)
    kept = plain[..., [1, 2, 4, 5, 6, 7]].sum(-1) + plain[..., 8]
    # The activated code takes an empty slot where there is one, else that of the least similar.
    assert torch.equal(found.sum(-1), torch.where(freed > 0, kept + 1, torch.full_like(kept, d.k)))


def test_substitute_is_the_pass_it_came_from(model, dictionaries, ids):
    d = dictionaries["topk_sae"]
    with inside(model, d) as running:
        wanted = model(ids)
    first = running["dictionary"]
    other = (ids + 1) % 40
    other[:, -1] = ids[:, -1]
    with inside(model, d, edits=Substitute(first, positions=slice(4, 9))) as running:
        model(other)
    dense, theirs = running["dictionary"].dense(), first.dense()
    assert torch.equal(dense[:, 4:9], theirs[:, 4:9])
    with inside(model, d, edits=Substitute(first)):
        torch.testing.assert_close(model(ids), wanted)
    picked = first.sequences(torch.tensor([2, 0, 0]))
    with inside(model, d, edits=Substitute(picked)) as running:
        model(ids)
    assert torch.equal(running["dictionary"].dense(), theirs[[2, 0, 0]])
    with inside(model, d, edits=Substitute(first.sequences(torch.tensor([1])))) as running:
        model(ids)
    assert torch.equal(running["dictionary"].dense(), theirs[[1, 1, 1]])
    short = Substitute(first.sequences(torch.tensor([1, 0])))
    with inside(model, d, edits=short), pytest.raises(InputError, match="1 or 3 sequences, got 2"):
        model(ids)


def test_several_run_together_and_see_each_other(model, ids):
    sites = {
        "z": hook_sites(model, "blocks.0.attn.hook_z"),
        "sae": hook_sites(model, "blocks.0.hook_mlp_out"),  # an alias of the transcoder's target
        "tc": mlp_sites(model, 1),
    }
    z = CodebookConfig(n_codes=9, k=1, n_groups=model.cfg.n_heads).build(sites["z"])
    sae = TopKSAEConfig(n_features=32, k=3).build(sites["sae"])
    tc = TranscoderConfig(n_features=32).build(sites["tc"])
    seen = {}

    def keep(name):
        def read(y, positions):
            seen[name] = y

        return read

    hooks = [h for s in sites.values() for h in s.hooks]
    named = {"z": z, "sae": sae, "tc": tc}
    with inside(model, named) as running, patched(model, {hook: keep(hook) for hook in hooks}):
        model(ids)
    assert list(running) == ["z", "sae", "tc"]
    x = seen[sites["tc"].source.hook].flatten(0, 1)
    assert torch.equal(running["tc"].acts.to_dense(), tc.encode_sparse(x).to_dense())
    assert torch.equal(
        seen[sites["tc"].target.hook].flatten(0, 1), tc.estimate(x, tc.encode_sparse(x))
    )
    other = SAEConfig(n_features=8).build(mlp_sites(model, 0).at_target())
    with pytest.raises(InputError, match="both replace"), inside(model, {"a": sae, "b": other}):
        pass
    with inside(model, {"a": sae, "b": other}, keep_error=True):
        assert torch.equal(model(ids), model(ids))


# Gradients


def lm_loss(logits, ids):
    return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize(("k", "combine"), [(1, "sum"), (3, "sum"), (3, "mean")])
def test_straight_through(native, ids, k, combine):
    """The target's gradient is that of the estimate, bit for bit; codes that were not chosen have
    none; codes and model have those of a plain top-k written out."""
    model = native().double().requires_grad_(True)
    hooks = ("blocks.0.attn.hook_z", "blocks.1.mlp.hook_out")
    ds = {}
    for i, hook in enumerate(hooks):
        groups = model.cfg.n_heads if "attn" in hook else 1
        config = CodebookConfig(n_codes=7, k=k, n_groups=groups, combine=combine)
        ds[hook] = config.build(hook_sites(model, hook), seed=i).double()
    taps = {hook: [] for hook in hooks}

    def tap(hook):
        def keep(y, positions):
            if not y.requires_grad:  # `inside` tries the hooks first
                return
            y.retain_grad()
            taps[hook].append(y)

        return keep

    tapped = [patched(model, {h: tap(h) for h in hooks}) for _ in range(2)]
    with tapped[0], inside(model, ds) as running, tapped[1]:
        loss = lm_loss(model(ids), ids)
    loss.backward()
    for hook, d in ds.items():
        before, after = taps[hook]
        assert not torch.equal(before, after)
        assert torch.equal(before.grad, after.grad)
        unused = running[hook].acts.firing_counts().view(d.codes.shape[:2]) == 0
        assert unused.any()
        assert torch.all(d.codes.grad[unused] == 0)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    codes = {hook: d.codes.grad.clone() for hook, d in ds.items()}
    model.zero_grad()

    def plain(d):
        own = d.codes.detach().clone().requires_grad_(True)

        def put(y, positions):
            x = y.flatten(0, 1).view(-1, *own.shape[::2])
            unit = own / own.norm(dim=2, keepdim=True)
            top = torch.einsum("ngd,gcd->ngc", x, unit).topk(d.k, dim=2).indices
            out = torch.stack([own[g][top[:, g]].sum(1) for g in range(len(own))], 1)
            out = out / (d.k if combine == "mean" else 1)
            return (out + x - x.detach()).reshape(y.shape)

        return own, put

    oracle = {hook: plain(d) for hook, d in ds.items()}
    with patched(model, {hook: put for hook, (_, put) in oracle.items()}):
        same = lm_loss(model(ids), ids)
    same.backward()
    torch.testing.assert_close(loss, same, atol=1e-12, rtol=0)
    for hook, (own, _) in oracle.items():
        torch.testing.assert_close(codes[hook], own.grad, atol=1e-12, rtol=0)
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("config", [
    SAEConfig(n_features=24), TopKSAEConfig(n_features=24, k=4),
    TranscoderConfig(n_features=24, linear_skip=True), BatchTopKSAEConfig(n_features=24, k=4),
], ids=lambda c: c.kind)  # fmt: skip
def test_through_the_encoder(native, ids, config):
    """The gradient is that of the dense forward, written out; with straight-through, that of the
    target."""
    model = native().double().requires_grad_(True)
    d = config.build(config.sites(mlp_sites(model, 0))).double()
    with inside(model, d):
        lm_loss(model(ids), ids).backward()
    found = [p.grad.clone() for p in (*model.parameters(), *d.parameters()) if p.grad is not None]
    model.zero_grad(), d.zero_grad()
    read = {}
    hooks = {
        d.sites.source.hook: lambda x, positions: read.update(x=x),
        d.sites.target.hook: lambda y, positions: d(read.get("x", y)),
    }
    if d.sites.is_autoencoder:
        hooks = {d.sites.target.hook: lambda y, positions: d(y)}
    with patched(model, hooks):
        lm_loss(model(ids), ids).backward()
    wanted = [p.grad for p in (*model.parameters(), *d.parameters()) if p.grad is not None]
    assert len(found) == len(wanted) > 10
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_groups_are_independent_chunks(model, heads):
    d, _ = heads
    x = torch.randn(40, d.sites.source.d)
    chunk = d.sites.source.d // d.n_groups
    site = Site("x", chunk)
    parts = []
    for g in range(d.n_groups):
        config = CodebookConfig(n_codes=d.n_codes, k=d.k, combine="mean")
        own = config.build(Sites(site, site))
        own.codes.data = d.codes.data[g : g + 1]
        parts.append(own(x[:, g * chunk : (g + 1) * chunk]))
    torch.testing.assert_close(d(x), torch.cat(parts, 1), atol=1e-6, rtol=0)


# What is refused, and what is left behind


@pytest.mark.untyped
def test_errors(model, dictionaries, ids, heads):
    sae, codes = dictionaries["sae"], heads[0]
    clean = model(ids)

    def fails(match, ds=sae, edits=(), error=InputError):
        with pytest.raises(error, match=match), inside(model, ds, edits=edits):
            model(ids)
        assert torch.equal(model(ids), clean)

    fails("features from 0 to", edits=Ablate(10_000))
    fails("no dictionary 'sea'.*sae", {"sae": sae}, Ablate(1, at="sea"))
    fails("a name", {"sae": sae, "z": codes}, Ablate(1))
    fails("chooses a number of codes", edits=Activate(1))
    fails("at most 3 codes in group 0", codes, Activate((0, 1, 2, 3)))
    fails("at most 1 codes in group 0", codes, Activate((0, 1), "all"))
    fails("vector of width", edits=Push(torch.ones(3), 1.0))
    fails("required edits", edits=[17])
    fails("a dictionary, or a dict", [sae])
    fails("not have", _elsewhere())
    for make in (
        lambda: Ablate(-1), lambda: Ablate(()), lambda: Ablate((1, 1)), lambda: Ablate("x"),
        lambda: Clamp(1, float("nan")), lambda: Activate(1, "lots"),
        lambda: Ablate(1, positions=-1), lambda: Ablate(1, positions="5-"),
        lambda: Push(torch.zeros(4), 1.0),
        lambda: Ablate(1, positions=slice(-3, None)), lambda: Substitute(3), lambda: Push(1, None),
    ):  # fmt: skip
        with pytest.raises(InputError):
            make()
    with pytest.raises(ZeroDivisionError), inside(model, sae):
        raise ZeroDivisionError
    assert torch.equal(model(ids), clean)


def _elsewhere():
    site = Site("blocks.9.hook_mlp_out", 8)
    return SAEConfig(n_features=4).build(Sites(site, site))


def test_an_estimate_that_depends_on_what_comes_later_is_refused(model):
    both = [mlp_sites(model, layer) for layer in (0, 1)]
    crosscoder = CrosscoderConfig(n_features=8)
    d = crosscoder.build(crosscoder.among(both))
    with pytest.raises(InputError, match="comes later in a pass"), inside(model, d):
        pass


def test_edits_along_vectors_need_no_dictionary(model, ids):
    v = torch.randn(model.cfg.d_model)
    hook = "blocks.0.hook_resid_post"
    wanted = model.run_with_hooks(ids, fwd_hooks=[(hook, lambda y, hook: y + 2 * v / v.norm())])
    with inside(model, {}, edits=Push(v, 2.0, at=hook)):
        torch.testing.assert_close(model(ids), wanted, atol=1e-5, rtol=1e-5)


def test_a_norm_in_front_of_codes(native, ids):
    """LayerNorm, then the choice, whose gradient passes straight through to norm and model; the
    code's own error sees the normalized activation as a constant (the released codebooks)."""
    model = native().double().requires_grad_(True)
    hook = "blocks.0.attn.hook_z"
    config = CodebookConfig(n_codes=7, k=2, n_groups=model.cfg.n_heads, input_norm=True)
    d = config.build(hook_sites(model, hook)).double()
    with torch.no_grad():
        d.norm_weight.mul_(1.5)
        d.norm_bias.add_(0.1)
    with inside(model, {hook: d}):
        loss = lm_loss(model(ids), ids)
    loss.backward()
    learned = [d.codes, d.norm_weight, d.norm_bias]
    found = [p.grad.clone() for p in (*model.parameters(), *learned) if p.grad is not None]
    model.zero_grad(), d.zero_grad()

    def by_hand(y, positions):
        chunks = y.flatten(0, 1).view(-1, d.n_groups, d.codes.shape[2])
        normed = layer_norm(chunks, chunks.shape[-1:]) * d.norm_weight + d.norm_bias
        unit = d.codes / d.codes.norm(dim=2, keepdim=True)
        top = torch.einsum("ngd,gcd->ngc", normed, unit).topk(2, dim=2).indices
        out = torch.stack([d.codes[g][top[:, g]].sum(1) for g in range(d.n_groups)], 1)
        return (out + normed - normed.detach()).reshape(y.shape)

    with patched(model, {hook: by_hand}):
        same = lm_loss(model(ids), ids)
    same.backward()
    wanted = [p.grad for p in (*model.parameters(), *learned) if p.grad is not None]
    torch.testing.assert_close(loss, same, atol=1e-12, rtol=0)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
    x = torch.randn(20, d.sites.source.d, dtype=torch.float64)
    own = d.fit_pass(Batch(x, x))
    chunks = x.view(20, d.n_groups, -1)
    normed = layer_norm(chunks, chunks.shape[-1:]) * d.norm_weight + d.norm_bias
    torch.testing.assert_close(own.t, normed.flatten(1).detach())
    assert not own.t.requires_grad
    torch.testing.assert_close(own.y_hat, d(x))


def test_codes_fall_in_number_and_keep_their_norm(heads):
    d = CodebookConfig(n_codes=9, k=3, combine="mean").build(heads[0].sites)
    x = torch.randn(10, d.sites.source.d)
    d.choose_(5)
    acts = d.encode(x)
    assert (acts.sum(1) == 5).all()
    assert d.traits.max_active == 5
    torch.testing.assert_close(d(x), acts @ d.codes[0] / 5)


def test_a_dictionary_of_another_model_is_refused(native, dictionaries, ids):
    other = native(act_fn="relu").requires_grad_(True)
    with torch.no_grad():
        other.embed.W_E.add_(0.5)
    sae = dictionaries["sae"]
    with pytest.raises(ProvenanceError, match="trained on model"), inside(other, sae):
        pass
    with inside(other, sae, allow_other_model=True):
        other(ids)


# Edits one after the other


def chosen(model, codes, ids, edits):
    """The coefficients of a codebook, by token."""
    with inside(model, codes, edits=edits, allow_other_model=True) as running:
        model(ids)
    return running["dictionary"].acts.to_dense()


@pytest.fixture(scope="module")
def codes(model):
    return CodebookConfig(n_codes=9, k=3).build(mlp_sites(model, 0), seed=1)


def test_choices_one_after_the_other_are_one_choice_of_all(model, codes, ids):
    plain = chosen(model, codes, ids, [])
    u, v, *_, x, y = plain.sum(dim=0).argsort(descending=True).tolist()
    together = chosen(model, codes, ids, [Disable((u, v))])
    torch.testing.assert_close(chosen(model, codes, ids, [Disable(u), Disable(v)]), together)
    assert not chosen(model, codes, ids, [Disable(u), Disable(v)])[:, [u, v]].any()
    active = chosen(model, codes, ids, [Activate(x), Activate(y)])
    assert bool((active[:, [x, y]] >= 1).all() and (active.sum(dim=1) == 3).all())
    assert not chosen(model, codes, ids, [Ablate(u), Disable(v)])[:, [u, v]].any()
    last = chosen(model, codes, ids, [Disable(u), Activate(u)])
    assert bool((last[:, u] == 1).all()), "of edits of one code the last one holds"


def test_a_choice_leaves_alone_what_was_clamped(model, codes, ids):
    x, y = chosen(model, codes, ids, []).sum(dim=0).argsort()[:2].tolist()
    found = chosen(model, codes, ids, [Clamp(x, 2.5), Activate(y)])
    assert bool((found[:, x] == 2.5).all())
    rest = found.index_fill(1, torch.tensor([x]), 0.0)
    assert bool((rest[:, y] >= 1).all())
    assert bool((rest.sum(dim=1) == 2).all()), "the clamped code takes one of the slots"


def test_earlier_edits_count_where_they_hold(model, codes, ids):
    u = int(chosen(model, codes, ids, []).sum(dim=0).argmax())
    v = (u + 1) % 9
    found = chosen(model, codes, ids, [Disable(u, positions=slice(0, 6)), Disable(v)])
    alone = chosen(model, codes, ids, [Disable(v)])
    both = chosen(model, codes, ids, [Disable((u, v))])
    first = (torch.arange(12) < 6).repeat(len(ids))
    torch.testing.assert_close(found[first], both[first])
    torch.testing.assert_close(found[~first], alone[~first])


def test_more_codes_than_slots_are_refused(model, codes, ids):
    four = [Activate(code) for code in range(4)]
    with pytest.raises(InputError, match="settled too many of the 3"):
        chosen(model, codes, ids, four)


# Passes that end early, and hooks with two names


def test_a_pass_that_ended_early_leaves_nothing_to_the_next(model, dictionaries, ids):
    clt = dictionaries["cross_layer_transcoder"]
    with inside(model, clt):
        expected = model(ids[:1, :8])

    def fail(y, hook):
        raise ZeroDivisionError

    with inside(model, clt):
        with pytest.raises(ZeroDivisionError):
            model.run_with_hooks(ids[:2], fwd_hooks=[("blocks.1.mlp.hook_pre", fail)])
        torch.testing.assert_close(model(ids[:1, :8]), expected)


@pytest.mark.parametrize("edit", [ProjectOut(0), Cap(0, -1.0)])
def test_components_over_several_targets_are_refused(model, dictionaries, edit):
    with (
        pytest.raises(InputError, match="depends on what comes later"),
        inside(model, dictionaries["cross_layer_transcoder"], edits=edit),
    ):
        pass


def test_a_source_that_is_the_target_by_another_name_is_refused(model):
    sites = Sites(Site("blocks.0.mlp.hook_out", 16), Site("blocks.0.hook_mlp_out", 16))
    with (
        pytest.raises(InputError, match="two names of one hook"),
        inside(model, TranscoderConfig(n_features=8).build(sites)),
    ):
        pass


@pytest.mark.untyped
def test_slots_of_another_type_are_refused():
    with pytest.raises(InputError, match="'refill' or 'empty'"):
        Disable(3, None)
