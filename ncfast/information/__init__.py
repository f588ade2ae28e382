"""Entropy and mutual information by nearest neighbours, in nats."""
