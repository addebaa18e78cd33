"""The bundle: a folder of safetensors files and one manifest that every command reads and writes.

Knows no model.
"""
