"""The parts of ExecuTorch files: subgraphs for XNNPACK, methods, the file itself."""
