"""Bundles on the Hugging Face Hub: found, fetched, checked, cached and published."""
