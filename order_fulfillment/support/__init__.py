"""Helpers that know nothing of orders."""
