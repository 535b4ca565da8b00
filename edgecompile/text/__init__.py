"""Text for calibration and checks: where it comes from and how its parts are kept apart."""
