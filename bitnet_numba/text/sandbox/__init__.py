"""The bounded sandbox of chat templates; the only room that imports jinja2."""
