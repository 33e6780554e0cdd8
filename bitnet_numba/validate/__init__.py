"""Model checks without and with generation: inspection, rulesets for weights, correction policies, validation."""
