"""The training loop and its learners."""
