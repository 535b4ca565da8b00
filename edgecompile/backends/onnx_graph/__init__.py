"""From a float ONNX graph of any exporter to one that holds the model's own codes.

The files in the order of their use: float_encoder.py makes a float graph, weights.py finds the
source tensors in it by content, encode.py replaces them by codes, storage.py writes, decode.py
reads back. decoder_graph.py draws a decoder without an exporter.
"""
