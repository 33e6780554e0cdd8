"""What changes parameters and measures again: boundary smoothing (Phase 2), transition optimization (Phase 3)."""
