"""Evidence of what was computed: receipts that anybody can verify and replay."""
