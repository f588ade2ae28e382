"""Runs a model over batches, and captures the features of its layers and their classifier."""
