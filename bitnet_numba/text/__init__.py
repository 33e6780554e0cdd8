"""Text: tokenizers, chat templates in their sandbox, stop strings, and text from a stream of tokens."""
