"""Hugging Face Hub: model ids, the shared cache on disk, and downloads that resume after network failures."""
