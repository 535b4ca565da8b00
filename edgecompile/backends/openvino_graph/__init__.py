"""From a model with codes to OpenVINO's IR (XML and .bin) and back.

The files in the order of their use: float_encoder.py makes a float graph of a torch module,
decoder_graph.py draws a decoder, compressed.py writes codes as constants that stay compressed,
rewrite.py puts them into a float graph, storage.py names and writes, ir.py and decode.py read back.
"""
