"""The systems that benchmarks compare with."""

from peers.light_gcn import PyGLightGCN, PyGStep, pyg_evaluate

__all__ = ['PyGLightGCN', 'PyGStep', 'pyg_evaluate']
