"""The former name of `FeatureExtractor`; models that version 0.1 saved ask for it."""

from ncfast.features.extractor import FeatureExtractor

Tapped = FeatureExtractor
