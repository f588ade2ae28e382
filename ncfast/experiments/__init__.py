"""Datasets, models, trainer and report behind the `ncfast` command."""
