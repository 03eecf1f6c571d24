"""Text: tokenizers, chat templates, thought parsing and streaming. Nothing here knows a model or imports torch."""
