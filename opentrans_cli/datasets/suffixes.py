"""Suffixes of pictures: those that are read, and those that a person may take for pictures as well."""

from __future__ import annotations

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")

_LEFT_OUT = """
    .heic .heif .avif .gif .jxl .jp2 .j2k .jfif .jpe .svg .psd .ico .tga .ppm .pgm .pnm .exr .hdr .npy .mpo .jps
    .raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .pef .srw .mov .mp4
"""
OTHER_PICTURES = frozenset(_LEFT_OUT.split())
"""Suffixes of files that look like pictures to a person and are not read."""
