"""Sizes of the benchmarks: everything that determines the time of `make peers`."""

from dataclasses import dataclass

from benchmarks.peers.peer import Kind


@dataclass(frozen=True)
class Size:
    """The default takes about 25 minutes on two cores."""

    width: int = 512
    n_features: int = 8192
    n_codes: int = 10_000
    residual_codes: int = 2048
    batch: int = 4096
    k: int = 32
    l0: int = 50
    n_chosen: int = 8
    """Codes of a row."""
    rounds: int = 7
    rounds_of_other_kinds: int = 3

    growth_batch: int = 1024
    growth_rounds: int = 3
    growth_features: tuple[int, ...] = (2048, 8192, 32_768, 131_072)
    growth_widths: tuple[int, ...] = (256, 512, 1024, 2048)
    growth_k: tuple[int, ...] = (8, 32, 128)

    memory_features: int = 32_768
    """Features of every library's dictionary in the memory benchmark."""
    most_features: int = 131_072
    """Features of dictlearn's dictionary in the memory benchmark."""

    planted_width: int = 64
    planted_directions: int = 256
    planted_active: int = 8
    planted_features: int = 512
    planted_batch: int = 512
    planted_steps: int = 500
    planted_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    seeds: int = 3

    train_tokens: int = 300_000
    second_tokens: int = 200_000
    held_out_tokens: int = 20_000
    run_features: int = 4096
    run_batch: int = 4096
    run_ladder: tuple[float, ...] = (*(n / 16 for n in range(8, 15)), 1.0, 1.25, 1.5)
    """Our numbers of steps, as multiples of SAELens'."""
    run_rates: tuple[float, ...] = (5e-3, 1e-2, 2e-2)
    sweep_k: tuple[int, ...] = (8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64)
    shared_k: int = 2
    """Dictionaries by which the cost of SAELens' shared forward pass is found."""

    harvest_tokens: int = 50_000
    harvest_rounds: int = 3

    evaluated: int = 8
    evaluated_by_saelens: int = 2
    """The number on which its time of one is measured."""
    eval_sequences: int = 416
    """Number of sequences of 255 ordinary tokens: a multiple of the batch of 32."""

    def features_of(self, kind: Kind) -> tuple[int, int]:
        """The number of features, and of active ones, of a dictionary of this kind."""
        match kind:
            case Kind.CODEBOOK | Kind.ONE_CODE:
                return self.n_codes, self.n_chosen
            case Kind.RESIDUAL_CODEBOOK:
                return self.residual_codes, self.n_chosen
            case Kind.TOPK_SAE | Kind.BATCHTOPK_SAE | Kind.TOPK_TRANSCODER:
                return self.n_features, self.k
        return self.n_features, self.l0


QUICK = Size(
    width=64,
    n_features=512,
    n_codes=512,
    residual_codes=128,
    batch=512,
    k=8,
    rounds=2,
    rounds_of_other_kinds=2,
    growth_batch=256,
    growth_rounds=2,
    growth_features=(256, 1024),
    growth_widths=(32, 64),
    growth_k=(4, 16),
    memory_features=512,
    most_features=1024,
    train_tokens=20_000,
    second_tokens=20_000,
    held_out_tokens=2_000,
    run_features=256,
    run_batch=1024,
    sweep_k=(8, 32),
    shared_k=1,
    harvest_tokens=10_000,
    harvest_rounds=1,
    evaluated=2,
    evaluated_by_saelens=1,
    eval_sequences=32,
    planted_steps=20,
    planted_rates=(1e-3,),
    seeds=2,
)
"""Seconds instead of minutes: shows that everything runs, and measures nothing."""
