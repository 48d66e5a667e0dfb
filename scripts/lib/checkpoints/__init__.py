"""Checkpoints in Hugging Face's layout with the true names, shapes and dtypes of public models and made-up values."""
