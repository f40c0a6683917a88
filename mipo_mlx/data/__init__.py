"""Text to text and text to tokens: read, split, contrast, pairs, batch. No model, no MLX."""
