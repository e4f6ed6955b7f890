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

PAD, BOS, EOS = 0, 1, 2


@torch.no_grad()
def sample_ids(model: LlamaForCausalLM, count: int, length: int) -> list[list[int]]:
    """Sample `count` continuations of the start token at temperature 1, from the whole vocabulary.

    The source model met the start token between documents, so that token ends a story as well as
    the end token does; both are kept here, to tell an ended story from a cut one.
    """
    prompt = torch.full((count, 1), BOS, device=model.device)
    tokens = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=length,
        eos_token_id=[BOS, EOS],
        pad_token_id=PAD,
    )
    return tokens[:, 1:].tolist()


def story_text(tokenizer: Tokenizer, ids: list[int]) -> str | None:
    """Decode a story up to its end token; None if the context's end cut it."""
    ends = [i for i, token in enumerate(ids) if token in (BOS, EOS)]
    return tokenizer.decode(ids[: ends[0]]).strip() if ends else None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--model", type=Path, required=True, help="what train_stories wrote")
    parser.add_argument("--text-dir", type=Path, required=True, help="the training files")
    parser.add_argument("--out", type=Path, required=True, help="the corpus: a .jsonl.xz file")
    parser.add_argument("--stories", type=int, default=10240, help="how many to sample")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--length", type=int, default=255, help="most new tokens a story")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
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
