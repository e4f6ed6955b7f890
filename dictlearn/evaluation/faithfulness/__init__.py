"""Faithfulness of dictionaries to the activations and predictions of the model."""
