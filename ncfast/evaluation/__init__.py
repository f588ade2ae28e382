"""Metrics of a trained network on a data set, and of features in files."""
