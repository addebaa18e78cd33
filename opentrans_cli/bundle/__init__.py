"""The bundle: a folder of safetensors files and one manifest that every command reads and writes.

This package does not depend on any model.
"""
