"""Concepts defined by regular expressions, such as commas or names, and their tokens."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dictlearn.core.errors import InputError, NotApplicableError
from dictlearn.core.tokens import Tokens


@dataclass(frozen=True)
class Concept:
    """A name and the regular expression (of Python's `re`) that defines it.

    The position of a match is the start of its first group, or of the whole match if the pattern
    has no groups; text before the group is context.
    """

    name: str
    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InputError(
                f"concept {self.name!r}: required a regular expression, got {self.pattern!r} "
                f"({error}); put a backslash before characters that stand for themselves"
            ) from error

    def places(self, text: str) -> list[int]:
        """The positions in `text` of all non-empty matches.

        >>> Concept("year", r"\\bin (\\d{4})").places("in 1984 and in 1990")
        [3, 15]
        """
        regex = re.compile(self.pattern)
        group = 1 if regex.groups else 0
        return [m.start(group) for m in regex.finditer(text) if m.end(group) > m.start(group)]


def concept_labels(
    tokens: Tokens, tokenizer: Any, concepts: Sequence[Concept]
) -> Bool[Tensor, "concept b pos"]:
    """Whether each token is at the position of a match of each concept.

    The text between special tokens is searched; with blocks of whole documents (`load_tokens`),
    this is one document. Matches do not cross special tokens or blocks, and special tokens have no
    labels. A character that is spread over several tokens belongs to the last of them, at which
    the model has read it completely.

    Raises:
        InputError: two concepts have the same name.
        NotApplicableError: the tokenizer is not a fast one.
    """
    names = [concept.name for concept in concepts]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"required concepts of different names, got {', '.join(map(repr, repeated))} more "
            "than once; rename one"
        )
    labels = torch.zeros(len(concepts), *tokens.ids.shape, dtype=torch.bool)
    for b, (ids, ordinary) in enumerate(zip(tokens.ids, tokens.ordinary, strict=True)):
        for first, run in _runs(ids, ordinary):
            pieces = token_texts(run, tokenizer)
            text, ends = "".join(pieces), np.cumsum([len(piece) for piece in pieces])
            for i, concept in enumerate(concepts):
                found = np.searchsorted(ends, concept.places(text), side="right")
                labels[i, b, first + torch.from_numpy(found)] = True
    return labels


_LEAD = 8  # tokens read before a window: the first of a text lacks its space, or half a character


def token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text that each token adds when tokens are decoded one by one, including spaces.

    A token that ends within a character adds nothing; the character belongs to the token that
    completes it.

    Raises:
        NotApplicableError: the tokenizer is not one of the fast ones, of the library `tokenizers`.
    """
    from tokenizers.decoders import DecodeStream

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise NotApplicableError(
            f"required a fast tokenizer, got {type(tokenizer).__name__}; load it with use_fast=True"
        )
    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(backend, i) or "" for i in ids]


def text_around(
    ids: Sequence[int],
    counted: Sequence[bool],
    position: int,
    window: tuple[int, int],
    tokenizer: Any,
) -> tuple[int, list[str]]:
    """The first position of the window around a token of a sequence, and the texts of its tokens.

    The window has so many tokens before and after, and ends where tokens are not `counted`.
    """
    first = end = position
    while first > 0 and counted[first - 1]:
        first -= 1
    lead, first = first, max(first, position - window[0])
    lead = max(lead, first - _LEAD)
    while end < min(len(counted), position + window[1] + 1) and counted[end]:
        end += 1
    return first, token_texts(ids[lead:end], tokenizer)[first - lead :]


def vocabulary_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text of each token in the middle of a sentence, such as " the" with its space.

    For tokens that are not a complete character, the name of the token in the vocabulary.
    """
    texts = [token_texts([i, i], tokenizer)[1] for i in ids]
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [text or str(name) for text, name in zip(texts, names, strict=True)]


def _runs(
    ids: Int[Tensor, " pos"], ordinary: Bool[Tensor, " pos"]
) -> Iterator[tuple[int, list[int]]]:
    """Runs of non-special tokens, each with the position of its first token."""
    edges = torch.cat([ordinary.new_zeros(1), ordinary, ordinary.new_zeros(1)]).int().diff()
    begins, ends = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
    return ((b, ids[b:e].tolist()) for b, e in zip(begins, ends, strict=True))


def _words(*words: str) -> str:
    return rf"(?i)\b(?:{'|'.join(words)})\b"


_SENTENCE = r"(?:\A|[.!?][\"”]?\s+)[\"“]?"

DEFAULT_CONCEPTS: tuple[Concept, ...] = (
    # punctuation
    Concept("comma", r","),
    Concept("full stop", r"\."),
    Concept("question mark", r"\?"),
    Concept("exclamation mark", r"!"),
    Concept("colon or semicolon", r"[:;]"),
    Concept("hyphen or dash", r"[-–—]"),
    Concept("bracket", r"[()\[\]]"),
    Concept("line break", r"\n"),
    # dialogue
    Concept("opening quote", r"(?:\A|\s)([\"“])\S"),
    Concept("closing quote", r"[.,!?]([\"”])"),
    Concept("first word of a quote", r"(?:\A|\s)[\"“](\w+)"),
    Concept("word after a quote", r"[.,!?][\"”] (\w+)"),
    Concept("speech verb", _words("said", "says", "asked", "replied", "answered", "shouted",
                                  "cried", "whispered", "called", "yelled")),
    Concept("contraction", r"[a-z](['’](?:s|t|re|m|ll|ve|d))\b"),
    # names
    Concept("capitalised word inside a sentence", r"[a-z,] ([A-Z][a-z]+)"),
    Concept("name after 'named'", r"\b(?:named|called) ([A-Z]\w+)"),
    Concept("first name", r"\b(?:Lily|Tim|Timmy|Tom|Ben|Anna|Mia|Max|Sara|Sam|Jack|Lucy|Bob)\b"),
    Concept("title before a name", r"\b(?:Mr|Mrs|Ms|Dr|Sir|Lord|Lady|King|Queen)\b\.? [A-Z]"),
    # pronouns
    Concept("he", _words("he")),
    Concept("she", _words("she")),
    Concept("it", _words("it")),
    Concept("they", _words("they")),
    Concept("I", r"\bI\b"),
    Concept("we or you", _words("we", "you")),
    Concept("object pronoun", _words("me", "him", "us", "them")),
    Concept("possessive", _words("my", "your", "his", "its", "our", "their")),
    # tenses and moods
    Concept("word ending in -ed", r"\b[a-z]{2,}ed\b"),
    Concept("word ending in -ing", r"\b[a-z]{2,}ing\b"),
    Concept("was or were", _words("was", "were")),
    Concept("am, is or are", _words("am", "is", "are")),
    Concept("has, have or had", _words("has", "have", "had")),
    Concept("future", r"\b(?:will|shall|going to)\b|['’]ll\b"),
    Concept("modal verb", _words("can", "could", "would", "should", "must", "may", "might")),
    Concept("verb after 'to'", r"\bto (?!the\b|a\b|an\b|h[ie][sr]\b|my\b|their\b)([a-z]+)"),
    Concept("negation", r"\b(?:[Nn]ot|[Nn]o|[Nn]ever|nothing)\b|(?<=n)['’]t\b"),
    # function words
    Concept("the", _words("the")),
    Concept("a or an", _words("a", "an")),
    Concept("and", _words("and")),
    Concept("but or because", _words("but", "because")),
    Concept("preposition of place", _words("in", "on", "at", "under", "into", "behind", "near")),
    # numbers
    Concept("digit", r"\d"),
    Concept("year", r"\b(?:1[0-9]|20)\d\d\b"),
    Concept("number word", _words("one", "two", "three", "four", "five", "six", "seven", "eight",
                                  "nine", "ten", "hundred", "thousand")),
    Concept("ordinal", _words("first", "second", "third", "last")),
    # positions
    Concept("first word of a sentence", _SENTENCE + r"(\w+)"),
    Concept("second word of a sentence", _SENTENCE + r"[\w'’]+ (\w+)"),
    Concept("word after a comma", r", (\w+)"),
    Concept("first word of a line", r"\n(\w+)"),
    # stories
    Concept("'time' of the opening", r"\bOnce upon a (time)\b"),
    Concept("family", _words("mom", "mum", "mommy", "mother", "dad", "daddy", "father", "sister",
                             "brother", "grandma", "grandpa", "parents", "family")),
    Concept("animal", _words("dogs?", "cats?", "birds?", "bears?", "fish", "frogs?", "rabbits?",
                             "bunny", "ducks?", "lions?", "mouse", "horses?", "cows?", "pups?")),
    Concept("friend", _words("friends?")),
    Concept("feeling", _words("happy", "sad", "scared", "angry", "excited", "proud", "sorry",
                              "afraid", "surprised")),
    Concept("size", _words("big", "little", "small", "tiny", "huge", "large", "tall")),
    Concept("colour", _words("red", "blue", "green", "yellow", "white", "black", "brown", "pink")),
    Concept("day", _words("days?")),
    # code
    Concept("bracket of a call", r"\w(\()"),
    Concept("keyword at the start of a line", r"(?m)^\s*(def|class|import|from|return|if|for)\b"),
    Concept("comment", r"(?m)(?:^|\s)(#|//)\s?\w"),
    Concept("assignment", r"\w (=) \S"),
    Concept("indentation", r"(?m)^([ \t]{2,})\S"),
    Concept("underscore in a name", r"[a-z](_)[a-z]"),
    # encyclopedias
    Concept("heading", r"(?m)^ ?(=+) \w"),
    Concept("month", r"\b(?:January|February|March|April|May|June|July|August|September|October|"
                     r"November|December)\b"),
    Concept("acronym", r"\b[A-Z]{2,}\b"),
    Concept("year in brackets", r"\((?:[^()]{0,20}\D)?((?:1[0-9]|20)\d\d)\b"),
    Concept("escaped punctuation", r" (@)[-,.]@ "),
)  # fmt: skip
"""Concepts for stories, articles and code."""
