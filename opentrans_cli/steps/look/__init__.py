"""inspect, verify and diff: what is in a bundle, whether it is whole, and what two of them differ in."""
