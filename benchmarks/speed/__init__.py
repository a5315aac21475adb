"""How fast compiled models are beside ONNX Runtime and OpenVINO, and beside what was asked for."""
