"""transfer: put the subnet into another framework or a checkpoint, or write it for open_clip or as an ONNX graph."""
