"""Collects metrics while a model trains, and writes them down."""
