"""Reads batches, runs a model, and captures the features of its layers and their classifier."""
