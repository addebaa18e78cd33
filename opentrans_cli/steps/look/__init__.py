"""inspect, verify and diff: what a bundle contains, whether it is intact, and how two bundles differ."""
