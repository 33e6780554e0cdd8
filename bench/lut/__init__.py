"""Matrix-vector products by looking up sums of activations, of T-MAC's and TL's kind, on the engine's own layout."""
