"""Algorithm 1 of Dunefsky et al. 2024, greedy search for paths, and the search for all paths.

One hop leads from a step to its children: the dictionary features, embeddings, errors, remainders
of MLPs and constants at its token that it depends on, and the attention heads that write there,
each with a token which it reads. Patterns, norms and the choice of features are held, so that the
attributions of all children add up to that of the step. A feature passes on what it contributes in
proportion to the contributions to its coefficient, or to its score where coefficients are 0 or 1.
"""

from collections.abc import Iterator, Mapping, Sequence

from jaxtyping import Int
from torch import Tensor

from dictlearn.circuits.checked import checked_model
from dictlearn.circuits.paths.children import Children, Open
from dictlearn.circuits.paths.path import NodePredicate, Path
from dictlearn.circuits.targets import Target, functions_of
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import whole
from dictlearn.lm.hooks import LanguageModel


def greedy_paths(
    model: LanguageModel,
    prompt: str | Int[Tensor, " pos"],
    dictionaries: Mapping[str, FeatureDictionary],
    target: Target | None = None,
    *,
    iterations: int = 3,
    width: int = 15,
    filters: Sequence[NodePredicate] = (),
    allow_other_model: bool = False,
) -> list[Path]:
    """The paths with large attributions: in each iteration, of the `width` paths that were found
    last, the `width` best children, and the `width` best paths among all of those.

    Paths of all lengths are returned, by length, then largest attribution first; those of each
    function of the target, by default the most probable next tokens, after one another.

    Args:
        model: the language model.
        prompt: a text, which BOS precedes if the model has one, or ids.
        dictionaries: of any kind, by name, at different targets.
        target: one function to explain, or several.
        iterations: largest number of hops.
        width: number of paths of each length.
        filters: what must hold for every node of a path after its target.
        allow_other_model: also take dictionaries of another model.

    Raises:
        InputError: dictionaries or target do not fit the model or the prompt, or the model has a
            part that is not linear when attention patterns, norms and MLPs are held.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
    """
    hops, n = whole(iterations), whole(width)
    if hops is None or hops < 0 or n is None or n < 1:
        raise InputError(
            "required at least 0 iterations and a width of at least 1, got "
            f"{iterations!r:.80} and {width!r:.80}"
        )
    opened = checked_model(
        model, prompt, dictionaries, cut_heads=True, allow_other_model=allow_other_model
    )
    with opened as local:
        children, found = Children(local, filters), list[Path]()
        for explained in functions_of(target, local):
            last = [children.root(explained)]
            for _ in range(hops):
                if not last:
                    break
                paths, last = children.of(last, n)
                found += paths
            found += [one.path for one in last]
    return found


def exhaustive_paths(
    model: LanguageModel,
    prompt: str | Int[Tensor, " pos"],
    dictionaries: Mapping[str, FeatureDictionary],
    target: Target | None = None,
    *,
    depth: int = 3,
    filters: Sequence[NodePredicate] = (),
    allow_other_model: bool = False,
) -> Iterator[Path]:
    """All paths of at most `depth` hops with an attribution other than 0, depth first.

    Arguments and errors are those of `greedy_paths`; errors are raised at the first path. Until the
    last path, or `close`, parameters of the model keep other `requires_grad` flags.
    """
    hops = whole(depth)
    if hops is None or hops < 0:
        raise InputError(f"required a depth of at least 0, got {depth!r:.80}")
    opened = checked_model(
        model, prompt, dictionaries, cut_heads=True, allow_other_model=allow_other_model
    )
    with opened as local:
        children = Children(local, filters)
        for explained in functions_of(target, local):
            yield from _below(children, children.root(explained), hops)


def _below(children: Children, one: Open, depth: int) -> Iterator[Path]:
    """A path and all that continue it."""
    if depth == 0:
        yield one.path
        return
    (path,), longer = children.of([one], None)
    yield path
    for child in longer:
        yield from _below(children, child, depth - 1)
