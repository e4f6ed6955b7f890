"""Every label stands on the token that holds the place of its match."""

import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dictlearn.core.errors import InputError
from dictlearn.core.tokens import Tokens
from dictlearn.text.concepts import DEFAULT_CONCEPTS, Concept, concept_labels, token_texts

TEXTS = [
    'Once upon a time Tim said, "Hello!"',
    "She paid 25 euros in 1984. It’s naïve “café” 😀 talk.",
    " leading and  double spaces\nand lines",
]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<eos>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def sentencepiece():
    """As Llama has it: spaces are ▁, and what is not in the vocabulary falls apart into bytes."""
    words = ["▁", *"abcdefghijklmnopqrstuvwxyzOTS", "▁a", "an", "in", "ll"]
    vocabulary = {"<unk>": 0, "<eos>": 1} | {f"<0x{i:02X}>": i + 2 for i in range(256)}
    vocabulary |= {word: i + 258 for i, word in enumerate(words)}
    merges = [("▁", "a"), ("a", "n"), ("i", "n"), ("l", "l")]
    bpe = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return tokenizer


@pytest.fixture(scope="module", params=[byte_level, sentencepiece], ids=lambda f: f.__name__)
def tokenizer(request):
    return PreTrainedTokenizerFast(tokenizer_object=request.param(), eos_token="<eos>")


def block(tokenizer, *texts, length=120):
    """One block: the documents, each behind a separator, and separators to fill up."""
    eos = tokenizer.eos_token_id
    ids = [i for text in texts for i in [eos, *tokenizer.encode(text, add_special_tokens=False)]]
    assert len(ids) < length
    row = torch.tensor([ids + [eos] * (length - len(ids))])
    return Tokens(row, row != eos, "here", "held_out", "")


def labelled(tokens, tokenizer, concept):
    """The text of each labelled token."""
    where = concept_labels(tokens, tokenizer, [concept])[0, 0].nonzero()[:, 0].tolist()
    begins = [i for i in range(tokens.ids.shape[1]) if not tokens.ordinary[0, i]]
    found = []
    for i in where:
        first = max(b for b in begins if b < i) + 1
        found.append(token_texts(tokens.ids[0, first : i + 1].tolist(), tokenizer)[-1])
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_tokens_join_to_the_text(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(token_texts(ids, tokenizer)).lstrip() == text.lstrip()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("character", ["a", "é", "😀", "’", " ", "\n"])
def test_a_label_stands_where_the_character_is(tokenizer, text, character):
    tokens = block(tokenizer, text)
    found = labelled(tokens, tokenizer, Concept("character", re.escape(character)))
    assert all(character in piece for piece in found)
    joined = "".join(token_texts(tokens.ids[0][tokens.ordinary[0]].tolist(), tokenizer))
    assert sum(piece.count(character) for piece in found) == joined.count(character)


def test_the_first_group_is_the_place(tokenizer):
    tokens = block(tokenizer, "in 1984. So in 25")
    year = labelled(tokens, tokenizer, Concept("year", r"in (\d{4})"))
    assert [piece.strip()[0] for piece in year] == ["1"]
    assert len(labelled(tokens, tokenizer, Concept("in", r"in \d{4}"))) == 1


def test_matches_stay_within_a_document(tokenizer):
    tokens = block(tokenizer, "one two", "three")
    assert labelled(tokens, tokenizer, Concept("across", r"two\s*three")) == []
    assert len(labelled(tokens, tokenizer, Concept("start", r"\A\s*(\w)"))) == 2
    everything = concept_labels(tokens, tokenizer, [Concept("any", r"(?s).")])
    assert not (everything[0] & ~tokens.ordinary).any()
    assert everything.sum() >= len("onetwothree") - 3


def test_an_empty_match_and_an_absent_group_have_no_place():
    assert Concept("empty", r"x*").places("abxx") == [2]
    assert Concept("end", r"$").places("ab") == []
    assert Concept("either", r"(a)|b").places("ab") == [0]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("opening quote", 'Tim said, "Go!" and "Stop."', ['"Go', '"Stop']),
        ("closing quote", 'Tim said, "Go!" and "Stop."', ['" and', '"']),
        ("word after a quote", 'Tim said, "Go!" and left', ["and left"]),
        ("capitalised word inside a sentence", "He saw Ann and Bo. The", ["Ann", "Bo."]),
        ("first word of a sentence", 'He ran. Bo! "Yes?" Oh', ["He ran", "Bo!", "Yes?", "Oh"]),
        ("second word of a sentence", "He ran off. It was", ["ran off", "was"]),
        ("contraction", "I don't, it's Tom’s", ["'t", "'s Tom", "’s"]),
        ("verb after 'to'", "to run to the park to his dad", ["run to"]),
        ("negation", "no, not now; I can't know", ["no, not", "not now", "'t know"]),
        ("animal", "The Cat and two dogs, a dogma", ["Cat and", "dogs,"]),
        ("year in brackets", "(1984) (born 5 May 2001) in 1990 (12)", ["1984", "2001"]),
        ("heading", " = Title = \n x = y\n == Part == ", ["= Title", "== Part"]),
        ("keyword at the start of a line", "if x:\n    return y for\nformat", ["if x", "return y"]),
        ("indentation", "if x:\n    y\nz", ["    y"]),
    ],
)  # fmt: skip
def test_default_concepts_find_what_they_are_called(name, text, words):
    concept = next(c for c in DEFAULT_CONCEPTS if c.name == name)
    places = concept.places(text)
    assert len(places) == len(words)
    assert all(text.startswith(w, p) for w, p in zip(words, places, strict=True))


def test_there_are_enough_default_concepts_of_different_names():
    assert len({c.name for c in DEFAULT_CONCEPTS}) == len(DEFAULT_CONCEPTS) >= 30
    assert len({c.pattern for c in DEFAULT_CONCEPTS}) == len(DEFAULT_CONCEPTS)


def test_wrong_concepts_are_refused(tokenizer):
    with pytest.raises(InputError, match=r"'open'.*\("):
        Concept("open", r"(")
    twice = [Concept("a", "a"), Concept("a", "b")]
    with pytest.raises(InputError, match="more than once"):
        concept_labels(block(tokenizer, "a"), tokenizer, twice)
    with pytest.raises(InputError, match="fast tokenizer"):
        token_texts([1], object())
