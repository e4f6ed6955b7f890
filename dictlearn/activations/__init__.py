"""Where training rows come from: tensors in memory, a store on disk, or a live model."""
