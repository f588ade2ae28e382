"""Trains replicas, runs that differ in seed and settings, in one batched program."""
