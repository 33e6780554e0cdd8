"""Bounded sandbox for chat templates; the only importer of jinja2."""
