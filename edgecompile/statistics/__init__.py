"""What per-sample numbers prove: intervals, error rates and looks, in the order of their use.

evidence.py holds a metric's samples, exact.py and resampled.py bound its value, looks.py plans how
many samples are drawn and which error rate each look may spend. docs/decisions/0015-verdicts.md
has the rule.
"""
