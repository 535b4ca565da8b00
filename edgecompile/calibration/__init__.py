"""Run a model block by block on calibration text: what calibrated passes and large checks share.

In the order of their use: batches.py makes inputs of text, walk.py runs blocks, moments.py sums up
what enters a matrix.
"""
