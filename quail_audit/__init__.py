"""Quail audits unlearned language models for knowledge that comes back when they are quantized.

Importing this package loads nothing heavy: torch, transformers and bitsandbytes are imported by the modules that
need them, when they need them.
"""

__version__ = "0.1.0"
