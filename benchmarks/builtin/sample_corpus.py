"""Sample the corpus shipped with `builtin:stories` from the stories15M model (MIT).

Every story is fresh, so that nothing of other people's is shipped and the built-in model has seen
none of it.

    python -m benchmarks.builtin.sample_corpus --source STORIES15M --model MODEL \\
        --text-dir TEXT --out OUT
"""

from __future__ import annotations

import argparse
import json
import lzma
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from benchmarks.builtin.train_stories import (
    TEXT_FILES,
    ended,
    load_model,
    read_stories,
    tokenize,
    total_loss,
)

BOS, EOS = 1, 2


@torch.no_grad()
def sample_ids(model: LlamaForCausalLM, count: int, length: int) -> list[list[int]]:
    """Sample `count` continuations of the start token at temperature 1, from the whole vocabulary.

    The source model met the start token between documents, so that token ends a story as well as
    the end token does; what follows it in a row is not part of the story. Drawing from the
    cumulative probabilities costs a tenth of `torch.multinomial` on a CPU.
    """
    tokens = torch.full((count, 1), BOS, device=model.device)
    done = torch.zeros_like(tokens, dtype=torch.bool)
    cache, columns = None, []
    while len(columns) < length and not done.all():
        out = model(tokens, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        cumulative = out.logits[:, -1].softmax(-1).cumsum(-1)
        draw = torch.rand_like(cumulative[:, :1]) * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, draw).clamp_(max=cumulative.shape[1] - 1)
        done |= (tokens == BOS) | (tokens == EOS)
        columns.append(tokens)
    return torch.cat(columns, dim=1).tolist()


def story_text(tokenizer: Tokenizer, ids: list[int]) -> str | None:
    """Decode a story up to its end token; None if the context's end cut it."""
    ends = [i for i, token in enumerate(ids) if token in (BOS, EOS)]
    return tokenizer.decode(ids[: ends[0]]).strip() if ends else None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; the defaults are the shipped corpus's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--model", type=Path, required=True, help="what train_stories wrote")
    parser.add_argument("--text-dir", type=Path, required=True, help="the training files")
    parser.add_argument("--out", type=Path, required=True, help="the corpus: a .jsonl.xz file")
    parser.add_argument("--stories", type=int, default=8960, help="how many to sample")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=255, help="most new tokens a story")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Sample, filter and write the corpus; print what became of the samples."""
    args = parse(argv)
    torch.manual_seed(args.seed)
    source = LlamaForCausalLM.from_pretrained(args.source, dtype=torch.float32).to(args.device)
    decoder = Tokenizer.from_file(str(args.source / "tokenizer.json"))
    seen = {s for file in TEXT_FILES.values() for s in read_stories(args.text_dir / file)}
    fate: Counter[str] = Counter()
    stories: list[str] = []
    for start in range(0, args.stories, args.batch):
        for ids in sample_ids(source, min(args.batch, args.stories - start), args.length):
            story = story_text(decoder, ids)
            if story is None:
                fate["cut"] += 1
            elif not ended(story):
                fate["no full stop at the end"] += 1
            elif story in seen:
                fate["seen before"] += 1
            else:
                fate["kept"] += 1
                seen.add(story)
                stories.append(story)
    with lzma.open(args.out, "wt", preset=9 | lzma.PRESET_EXTREME, encoding="utf-8") as out:
        out.writelines(json.dumps(story, ensure_ascii=False) + "\n" for story in stories)

    model = load_model(args.model).to(args.device)
    documents = tokenize(Tokenizer.from_file(str(args.model / "tokenizer.json")), stories)
    nats, count = total_loss(model, documents, model.cfg.n_ctx)
    size = sum(len(story.encode()) for story in stories)
    report = {
        "fate": fate,
        "tokens": sum(len(d.tokens) - 1 for d in documents),
        "bytes": size,
        "loss_per_token": nats / count,
        "loss_per_byte": nats / size,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
