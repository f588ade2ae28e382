"""The contestants of ncfast: the same results by plain torch, NumPy, SciPy and scikit-learn."""
