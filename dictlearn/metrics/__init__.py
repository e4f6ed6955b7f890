"""Pure tensor functions, one per quantity: by row, over a whole tensor, and pooled from sums."""
