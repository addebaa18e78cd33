"""Model cards of bundles, as text."""
