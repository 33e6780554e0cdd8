"""Baselines: what a model file was like on a day, so that any later change is named field by field."""
