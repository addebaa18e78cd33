"""transfer: the subnet in another framework, in somebody's checkpoint, in open_clip's form or as an ONNX graph."""
