"""Downloads of published data sets, converted once."""
