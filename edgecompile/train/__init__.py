"""Training: one loop for every objective, on torch and Hugging Face accelerate.

options.py what may be set · schedules.py the learning rate · order.py which rows a step sees ·
objectives/ what is learned · loop.py the steps · precision.py · parallel.py · checkpoints.py ·
readers.py, data.py the user's files · source.py, saving.py, lora.py models in and out · curve.py
"""
