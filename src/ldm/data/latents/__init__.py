"""Latents encoded ahead of training: format, manifest, encoder, data module."""
