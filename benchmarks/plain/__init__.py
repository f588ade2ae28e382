"""How the same numbers are computed without ncfast: plain torch, NumPy, SciPy, scikit-learn."""
