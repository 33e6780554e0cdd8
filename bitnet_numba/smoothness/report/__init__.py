"""The reports: JSON, console text, and one self-contained HTML page."""
