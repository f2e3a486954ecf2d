"""Soft targets: what finished models say of the pool's images, made once and kept."""
