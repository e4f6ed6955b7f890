"""Training of dictionaries inside a running model, and of the model through them."""
