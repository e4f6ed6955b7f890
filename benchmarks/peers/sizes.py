"""How much is measured: everything that decides the time `make peers` takes."""

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

    def features_of(self, kind: Kind) -> tuple[int, int]:
        """How many features and how many of them active a dictionary of this kind has."""
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
)
"""Seconds instead of minutes: shows that everything runs, and measures nothing."""
