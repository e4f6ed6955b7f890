"""A model that runs through dictionaries in their places, with edits of their features."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, nearest
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.interventions.direction import DirectionEdit
from dictlearn.interventions.edit import Edit, EditedRows, FeatureEdit
from dictlearn.interventions.features import PassFeatures, Substitute
from dictlearn.lm.generation import without_padding
from dictlearn.lm.hooks import LanguageModel, hook_names
from dictlearn.lm.identity import require_same_model
from dictlearn.lm.in_place import InPlace, functions_of, require_order, shared_target
from dictlearn.lm.patching import patched
from dictlearn.lm.sites import hook_sites

ONLY = "dictionary"
"""The name of a dictionary that is given without one."""


class Running(Mapping[str, PassFeatures]):
    """The features of the last pass of a model, by dictionary; `model` is the model."""

    def __init__(self, model: LanguageModel, places: "Mapping[str, Place]") -> None:
        self.model = model
        self._places = places

    def __getitem__(self, name: str) -> PassFeatures:
        if name not in self._places:
            raise InputError(f"no dictionary {name!r} runs here; {nearest(name, self._places)}")
        found = self._places[name].found
        if found is None:
            raise InputError("required a pass first: model(ids)")
        return found.padding_first()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@contextmanager
def inside(
    model: LanguageModel,
    dictionaries: FeatureDictionary | Mapping[str, FeatureDictionary],
    *,
    keep_error: bool = False,
    edits: Edit | Sequence[Edit] = (),
    straight_through: bool | None = None,
    allow_other_model: bool = False,
) -> Iterator[Running]:
    """A context in which `model` runs through `dictionaries`, each in the place of its target.

    With `f` the coefficients found in the pass and `f'` those after the edits, a target `y` becomes

    * `decode(f')`, plus the skip, by default; `push` and its like change that;
    * `y + decode(f') - decode(f)` with `keep_error`, so that without edits no bit changes, and an
      ablation has its effect although the error stays.

    Every pass and every generation of the model takes part, with or without a cache. Positions of
    edits count from the first token of a sequence, also under a cache and with padding on the left.
    Edits of features apply in the order given, and then those along directions; a choice of codes
    leaves alone what earlier edits settled. The features of the last pass, edits included, are
    `running["name"].acts`. Nothing is left on the model at the end, also after errors.

    With gradients enabled, they flow into the dictionaries, and through them: with
    `straight_through`, the gradient of an estimate passes to its target as if it were unchanged,
    and no further into the source (Tamkin et al. 2024, section 2); otherwise it passes through the
    encoder. By default it is so for kinds without a gradient through the encoder (those with
    coefficients of 0 or 1).

    Args:
        model: a model with TransformerLens hooks.
        dictionaries: one, or several by name. Each reads its source in the very pass that it
            changes, so it sees the estimates of those before it.
        keep_error: whether what the dictionaries miss is kept.
        edits: changes of features (`Ablate`, `Clamp`, `Scale`, `Add`, `Activate`, `Disable`,
            `Substitute`) or along directions (`Push`, `ProjectOut`, `Cap`).
        straight_through: the way of the gradient.
        allow_other_model: whether dictionaries that were trained on another model may run here.

    Raises:
        ProvenanceError: a dictionary was trained on another model.
        InputError: a hook does not exist or has another width, an estimate depends on what comes
            later in a pass, two dictionaries replace one target, or an edit does not fit.
    """
    named = _named(dictionaries)
    asked = [edits] if isinstance(edits, Edit) else list(edits)
    require_order(model, named)
    if not allow_other_model:
        require_same_model(model, named)
    if not keep_error and (shared := shared_target(model, named)):
        hook, one, other = shared
        raise InputError(
            f"{one!r} and {other!r} both replace {hook!r}: required one of them, or "
            "keep_error=True (--keep-error), with which both change what is there"
        )
    own = _by_dictionary(model, named, asked)
    places = {
        name: Place(
            d, keep_error, tuple(own[name]),
            d.traits.binary if straight_through is None else straight_through,
        )
        for name, d in named.items()
    }  # fmt: skip
    placed = [InPlace(place.dictionary.sites, place.replace) for place in places.values()]
    for hook in own.keys() - named.keys():
        bare = BareHook([edit for edit in own[hook] if isinstance(edit, DirectionEdit)])
        placed.append(InPlace(hook_sites(model, hook), bare.replace))
    with patched(model, functions_of(placed, model)):
        yield Running(model, places)


@dataclass
class Place:
    """A dictionary in its place, with the edits made there."""

    dictionary: FeatureDictionary
    keep_error: bool
    edits: tuple[Edit, ...]
    straight_through: bool
    found: PassFeatures | None = field(default=None, init=False)

    def replace(
        self,
        x: Float[Tensor, "b pos d_in"],
        y: Float[Tensor, "b pos d_out"],
        positions: Int[Tensor, "b pos"],
    ) -> Float[Tensor, "b pos d_out"]:
        """The new target; keeps the features as `found`."""
        d, positions = self.dictionary, without_padding(positions)
        rows = x.flatten(0, 1).to(d.x_mean.device)
        rows = rows.detach() if self.straight_through else rows
        acts = d.encode_sparse(rows)
        new = self._edited(acts, rows, positions.to(rows.device))
        self.found = PassFeatures(new, positions.to(rows.device))
        base = y.flatten(0, 1)
        if not self.keep_error:
            estimate = d.estimate(rows, acts).to(base)
            if self.straight_through and torch.is_grad_enabled():
                carrier = d.carrier(base)  # the difference is 0, and has the carrier's gradient
                estimate = estimate + (carrier - carrier.detach())
            base = estimate
        if new is not acts:
            changed = new.minus(acts)
            where = changed.l0().nonzero()[:, 0]
            written = d.write(changed.select(where)).to(base)
            base = base.index_add(0, where.to(base.device), written)
        for edit in self.edits:
            if isinstance(edit, DirectionEdit):
                base = _moved(base, edit, positions, d)
        return base.view_as(y)

    def _edited(
        self, acts: SparseActs, rows: Float[Tensor, "n d_in"], positions: Int[Tensor, "b pos"]
    ) -> SparseActs:
        earlier: list[tuple[FeatureEdit, Bool[Tensor, " n"]]] = []
        for edit in self.edits:
            if not isinstance(edit, FeatureEdit | Substitute):
                continue
            inside = edit.span.holds(positions).flatten()
            where = inside.nonzero()[:, 0]
            if not len(where):
                continue
            at = EditedRows(
                self.dictionary, rows[where], where // positions.shape[1],
                positions.flatten()[where], [(other, held[where]) for other, held in earlier],
            )  # fmt: skip
            if isinstance(edit, FeatureEdit):
                earlier.append((edit, inside))
            edited = edit.edited(acts.select(where), at)
            both = SparseActs.concatenated([acts, edited], acts.n_features)
            source = torch.arange(len(acts), device=where.device)
            source[where] = len(acts) + torch.arange(len(where), device=where.device)
            acts = both.select(source)
        return acts


@dataclass
class BareHook:
    """Edits along vectors at a hook where no dictionary stands."""

    edits: Sequence[DirectionEdit]

    def replace(
        self,
        x: Float[Tensor, "b pos d"],
        y: Float[Tensor, "b pos d"],
        positions: Int[Tensor, "b pos"],
    ) -> Float[Tensor, "b pos d"]:
        """The activation after the edits."""
        rows, positions = y.flatten(0, 1), without_padding(positions)
        for edit in self.edits:
            rows = _moved(rows, edit, positions, None)
        return rows.view_as(y)


def _moved(
    y: Float[Tensor, "n d"],
    edit: DirectionEdit,
    positions: Int[Tensor, "b pos"],
    dictionary: FeatureDictionary | None,
) -> Float[Tensor, "n d"]:
    where: Bool[Tensor, " n"] = edit.span.holds(positions).flatten().to(y.device)
    return torch.where(where.unsqueeze(1), edit.moved(y, edit.unit(dictionary).to(y)), y)


def _named(
    given: FeatureDictionary | Mapping[str, FeatureDictionary],
) -> dict[str, FeatureDictionary]:
    named = {ONLY: given} if isinstance(given, FeatureDictionary) else given
    if not isinstance(named, Mapping) or not all(
        isinstance(d, FeatureDictionary) for d in named.values()
    ):
        raise InputError(
            "required a dictionary, or a dict of dictionaries by name, to run inside the model, "
            f"got {given!r:.80}"
        )
    return dict(named)


def _by_dictionary(
    model: LanguageModel, named: Mapping[str, FeatureDictionary], edits: Sequence[Edit]
) -> Mapping[str, list[Edit]]:
    """The edits at each dictionary, or at a hook, checked to fit there."""
    found: defaultdict[str, list[Edit]] = defaultdict(list)
    for edit in edits:
        if not isinstance(edit, Edit):
            raise InputError(f"required edits such as Ablate(17), got {edit!r:.80}")
        at = edit.at
        if at is None:
            if len(named) != 1:
                raise InputError(f"{edit}: required a name (at=…) out of {', '.join(named)}")
            (at,) = named
        if at in named:
            edit.require_fits(named[at])
        elif isinstance(edit, DirectionEdit) and at in (hooks := hook_names(model)):
            edit.require_width(hook_sites(model, at).target.d)
        else:
            valid = [*named, *hooks] if isinstance(edit, DirectionEdit) else list(named)
            raise InputError(f"{edit}: no dictionary {at!r}; {nearest(at, valid)}")
        found[at].append(edit)
    return found
