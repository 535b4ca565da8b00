"""One release beside the next: release.py opens both, regression.py judges what was lost.

baseline.py holds what a check recorded of one, baseline_file.py its file.
docs/decisions/0016-baselines.md has the rule.
"""
