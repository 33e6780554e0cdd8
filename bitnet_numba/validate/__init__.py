"""Looking into models, holding them against rules, and correcting those that are known to be bad."""
