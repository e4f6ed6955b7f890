"""Sources of training rows: tensors in memory, a store on disk, or a live model."""
