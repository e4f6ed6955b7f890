"""Cards of single features: their strongest contexts, logit weights and nearest atoms."""
