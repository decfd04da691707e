"""Measuring and using a trained detector: predictions, metrics, report, pictures, export."""
