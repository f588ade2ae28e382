"""The former name of `FeatureExtractor`; models that version 0.1 saved ask for it."""

from ncfast.features.capture import FeatureExtractor

Tapped = FeatureExtractor
