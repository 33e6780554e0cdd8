"""Models from the Hugging Face Hub: names, the cache on disk, and downloads that survive bad networks."""
