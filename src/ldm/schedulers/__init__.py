"""Reverse-step rules, one solver family per file."""
