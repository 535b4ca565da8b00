"""What is cut, and how it is recovered: options of `[prune]` and `[distill]`."""
from __future__ import annotations

_WIDTHS = ("prune.ratio=0.5", "prune.texts=1024")
METHODS: dict[str, tuple[str, ...]] = {
    "none": (),
    "l2": ("prune.method=l2", "prune.ratio=0.5"),
    "gradient": ("prune.method=gradient", *_WIDTHS),
    "activation": ("prune.method=activation", *_WIDTHS),
    "depth": ("prune.method=depth", "prune.layers=3", "prune.texts=1024"),
}
VOCAB = {  # cut again after recovery from `gradient`, and not recovered once more
    "gradient-vocab": ("prune.vocab.min_count=1",),
    "gradient-12288": ("prune.vocab.min_vocab=12288",),
    "gradient-16384": ("prune.vocab.min_vocab=16384",),
}
ROWS = [*METHODS, "gradient-vocab"]  # of the table
AFTER = dict.fromkeys(VOCAB, "gradient")
METHODS |= VOCAB
RECOVERY = ("distill.soft=1",)  # its defaults: lr 2e-4, 32 rows a step, 4 epochs, temperature 2
