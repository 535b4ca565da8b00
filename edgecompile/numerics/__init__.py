"""The arithmetic of compression: numpy and torch only, no model and no engine."""
