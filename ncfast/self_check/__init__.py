"""Checks on a CUDA device that the Triton kernels give what the reference gives.

`supervisor.main` runs in a process of its own. It starts a worker (`worker.main`), which makes the
checks and may crash or hang, and writes the verdicts that `ncfast.ops._verdicts` looks up.
"""
