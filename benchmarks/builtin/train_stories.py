"""Train the tokenizer and the small language model shipped as `builtin:stories`.

The network is plain PyTorch, yet its parameters bear the names of the native model that
`TransformerBridge.boot_native` builds: the state dict loads there unchanged, while training needs
neither TransformerLens nor its hooks.

    python -m benchmarks.builtin.train_stories --text-dir TEXT --out OUT
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

SEPARATOR = "<|endoftext|>"
SEPARATOR_ID = 0
IGNORED = -100
TEXT_FILES = {"real": "stories_real.jsonl", "sampled": "stories_sampled.jsonl.xz"}


@dataclass(frozen=True)
class ModelConfig:
    """The shape, in TransformerLens's words, so that config.json boots the bridge."""

    n_layers: int = 4
    d_model: int = 128
    d_mlp: int = 512
    n_heads: int = 4
    d_head: int = 32
    n_ctx: int = 256
    d_vocab: int = 2048
    act_fn: str = "gelu"
    normalization_type: str = "LN"
    eps: float = 1e-5
    positional_embedding_type: str = "standard"


class Attention(nn.Module):
    """Causal self-attention with separate query, key and value maps, as the bridge names them."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        width = cfg.n_heads * cfg.d_head
        self.n_heads = cfg.n_heads
        self.q = nn.Linear(cfg.d_model, width)
        self.k = nn.Linear(cfg.d_model, width)
        self.v = nn.Linear(cfg.d_model, width)
        self.o = nn.Linear(width, cfg.d_model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            m(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(mixed.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """Two layers around the exact GELU."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.fc_in = nn.Linear(cfg.d_model, cfg.d_mlp)
        self.fc_out = nn.Linear(cfg.d_mlp, cfg.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_out(gelu(self.fc_in(x)))


class Block(nn.Module):
    """Pre-LayerNorm attention and MLP, dropout on what each adds to the residual stream."""

    def __init__(self, cfg: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(cfg.d_model, eps=cfg.eps)
        self.attn = Attention(cfg)
        self.ln2 = nn.LayerNorm(cfg.d_model, eps=cfg.eps)
        self.mlp = MLP(cfg)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.ln1(x)))
        return x + self.drop(self.mlp(self.ln2(x)))


class StoriesLM(nn.Module):
    """The language model: tokens (batch, position) to logits (batch, position, vocabulary)."""

    def __init__(self, cfg: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.cfg = cfg
        self.tok_embed = nn.Embedding(cfg.d_vocab, cfg.d_model)
        self.pos = nn.Embedding(cfg.n_ctx, cfg.d_model)
        self.layers = nn.ModuleList(Block(cfg, dropout) for _ in range(cfg.n_layers))
        self.ln_out = nn.LayerNorm(cfg.d_model, eps=cfg.eps)
        self.head = nn.Linear(cfg.d_model, cfg.d_vocab, bias=False)
        self.drop = nn.Dropout(dropout)
        residual_std = 0.02 / math.sqrt(2 * cfg.n_layers)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                adds = name.endswith(("attn.o.weight", "mlp.fc_out.weight"))
                nn.init.normal_(p, std=residual_std if adds else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_embed(tokens) + self.pos.weight[: tokens.shape[1]]
        x = self.drop(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.ln_out(x))


def read_stories(path: Path) -> list[str]:
    """Read JSON lines, one story a line, plain or xz."""
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def train_tokenizer(stories: Iterable[str], d_vocab: int) -> Tokenizer:
    """Fit a byte-level BPE: any text round-trips, and one text gives one tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    return tokenizer


def ended(story: str) -> bool:
    """Tell a finished story from one that its sampler cut at the context's end."""
    return story.rstrip().endswith((".", "!", "?", '"', "”"))


@dataclass(frozen=True)
class Document:
    """A story's tokens with the separator after them; `targets` ignores it after a cut story.

    A cut story stops anywhere, so its separator would teach the model to stop anywhere.
    """

    tokens: np.ndarray
    targets: np.ndarray


def tokenize(tokenizer: Tokenizer, stories: Sequence[str]) -> list[Document]:
    """Encode each story and put the separator after it."""
    documents = []
    for story, encoding in zip(stories, tokenizer.encode_batch(list(stories)), strict=True):
        tokens = np.array([*encoding.ids, SEPARATOR_ID])
        targets = tokens.copy()
        if not ended(story):
            targets[-1] = IGNORED
        documents.append(Document(tokens, targets))
    return documents


def pack(documents: Sequence[Document], n_ctx: int, skip: int = 0) -> tuple[Tensor, Tensor]:
    """Cut the joined documents into blocks; every token of the stream is a target once.

    A block's inputs are the separator and n_ctx - 1 tokens, its targets those tokens and the one
    after them, so that the last position is trained too. `skip` moves the cuts.
    """
    stream = np.concatenate([d.tokens for d in documents])[skip:]
    targets = np.concatenate([d.targets for d in documents])[skip:]
    fill = -len(stream) % n_ctx
    stream = np.pad(stream, (0, fill), constant_values=SEPARATOR_ID).reshape(-1, n_ctx)
    targets = np.pad(targets, (0, fill), constant_values=IGNORED).reshape(-1, n_ctx)
    inputs = np.roll(stream, 1, axis=1)
    inputs[:, 0] = SEPARATOR_ID
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def token_loss(model: nn.Module, inputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """Cross-entropy in nats, in float32 whatever the forward pass ran in."""
    logits = model(inputs).flatten(0, 1).float()
    return cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction=reduction)


@torch.no_grad()
def total_loss(model: nn.Module, documents: Sequence[Document], n_ctx: int) -> tuple[float, int]:
    """Sum the loss in nats over the packed documents; also return how many tokens it covers."""
    model.eval()
    device = next(model.parameters()).device
    nats, count = 0.0, 0
    inputs, targets = pack(documents, n_ctx)
    for x, y in zip(inputs.split(64), targets.split(64), strict=True):
        nats += token_loss(model, x.to(device), y.to(device), "sum").item()
        count += int((y != IGNORED).sum())
    return nats, count


def losses(
    model: nn.Module, held: dict[str, list[Document]], n_bytes: dict[str, int], n_ctx: int
) -> dict[str, dict[str, float]]:
    """Report each file's loss and the pooled one, per token and per byte of text."""
    sums = {name: (*total_loss(model, docs, n_ctx), n_bytes[name]) for name, docs in held.items()}
    sums["pooled"] = tuple(map(sum, zip(*sums.values(), strict=True)))
    return {
        name: {"per_token": nats / count, "per_byte": nats / size, "tokens": count, "bytes": size}
        for name, (nats, count, size) in sums.items()
    }


def batches(
    documents: Sequence[Document], n_ctx: int, batch: int, seed: int, device: torch.device
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yield (epochs done, inputs, targets) without end; each epoch shuffles and cuts anew."""
    rng = np.random.default_rng(seed)
    epoch = 0
    while True:
        order = [documents[i] for i in rng.permutation(len(documents))]
        inputs, targets = pack(order, n_ctx, skip=int(rng.integers(n_ctx)))
        rows = torch.from_numpy(rng.permutation(len(inputs)))
        inputs, targets = inputs[rows].to(device), targets[rows].to(device)
        full = max(len(rows) // batch, 1)
        for i in range(full):
            part = slice(i * batch, (i + 1) * batch)
            yield epoch + i / full, inputs[part], targets[part]
        epoch += 1


def learning_rate(progress: float, peak: float, warmup: float = 0.03) -> float:
    """Rise linearly over the first `warmup` of the run, then fall as a cosine to a hundredth."""
    if progress < warmup:
        return peak * progress / warmup
    fall = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    return peak * (0.01 + 0.99 * fall)


@torch.no_grad()
def sample(model: StoriesLM, tokenizer: Tokenizer, prompt: str, seed: int) -> str:
    """Continue a prompt at temperature 1 up to a separator or the context's end."""
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    ids = [SEPARATOR_ID, *tokenizer.encode(prompt).ids]
    while len(ids) < model.cfg.n_ctx:
        logits = model(torch.tensor([ids], device=device))[0, -1].float().cpu()
        token = int(torch.multinomial(logits.softmax(-1), 1, generator=generator))
        if token == SEPARATOR_ID:
            break
        ids.append(token)
    return tokenizer.decode(ids[1:])


def load_model(folder: Path) -> StoriesLM:
    """Load what `main` wrote, with the weights in float32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("held_out_loss")
    model = StoriesLM(ModelConfig(**config)).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; the defaults are the shipped model's recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text-dir", type=Path, required=True, help="folder of the two files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10_066)
    parser.add_argument("--minutes", type=float, help="run so long instead of --steps")
    parser.add_argument("--batch", type=int, default=16, help="blocks a step")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--real-weight", type=int, default=2, help="times each real story is seen")
    parser.add_argument("--limit", type=int, help="use only so many stories a file (a trial run)")
    parser.add_argument("--evals", type=int, default=4, help="points of the learning curve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Fit the tokenizer, train the model, and write both with a report to the output folder."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    cfg = ModelConfig()

    train_text, held_text = {}, {}
    for name, file in TEXT_FILES.items():
        stories = read_stories(args.text_dir / file)[: args.limit]
        cut = len(stories) * 9 // 10
        train_text[name], held_text[name] = stories[:cut], stories[cut:]
    tokenizer = train_tokenizer((s for part in train_text.values() for s in part), cfg.d_vocab)
    tokenizer.save(str(args.out / "tokenizer.json"))
    train = tokenize(tokenizer, train_text["real"]) * args.real_weight
    train += tokenize(tokenizer, train_text["sampled"])
    held = {name: tokenize(tokenizer, part) for name, part in held_text.items()}
    n_bytes = {n: sum(len(s.encode()) for s in part) for n, part in held_text.items()}

    model = StoriesLM(cfg, args.dropout).to(device)
    decayed = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, weight_decay=args.weight_decay, betas=(0.9, 0.98), fused=True
    )
    autocast = torch.autocast(device.type, torch.bfloat16)

    curve: list[dict[str, float]] = []
    start, step, progress = time.monotonic(), 0, 0.0
    for epochs, x, y in batches(train, cfg.n_ctx, args.batch, args.seed, device):
        elapsed = time.monotonic() - start
        progress = elapsed / (60 * args.minutes) if args.minutes else step / args.steps
        if progress >= len(curve) / args.evals or progress >= 1:
            scores = losses(model, held, n_bytes, cfg.n_ctx)
            point = {"step": step, "epochs": round(epochs, 2), "seconds": round(elapsed, 1)}
            curve.append(point | {name: score["per_token"] for name, score in scores.items()})
            print(json.dumps(curve[-1]), flush=True)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, args.lr)
        model.train()
        with autocast:
            loss = token_loss(model, x, y, "mean")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1

    rounded = {name: p.half().cpu().contiguous() for name, p in model.state_dict().items()}
    model.load_state_dict(rounded)
    scores = losses(model, held, n_bytes, cfg.n_ctx)
    save_file(rounded, args.out / "model.safetensors")
    config = asdict(cfg) | {"held_out_loss": round(scores["pooled"]["per_token"], 4)}
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    options = {k: v for k, v in vars(args).items() if k not in ("text_dir", "out")}
    report = {
        "options": options,
        "steps": step,
        "seconds": round(time.monotonic() - start, 1),
        "tokens_per_epoch": sum(len(d.tokens) for d in train),
        "held_out": scores,
        "curve": curve,
        "samples": [sample(model, tokenizer, "Once upon a time", seed) for seed in range(3)],
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores["pooled"]))


if __name__ == "__main__":
    main()
