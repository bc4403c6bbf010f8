r"""Kernels that torch brings along but does not document."""
