"""Datasets, models, training and report of the `ncfast` command."""
