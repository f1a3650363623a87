"""phipack: build, prove, register and deliver Phi-3 models for phones. The public API grows in this module."""
