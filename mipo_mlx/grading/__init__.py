"""Whether an answer is right, and whose facts it states. No model."""
