"""Guidance rules: they wrap the net, samplers know nothing of them."""
