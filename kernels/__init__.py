"""Triton kernels of the CUDA backend; installed as ``ncfast.kernels``."""
