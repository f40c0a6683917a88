"""Forward passes that share prompts: caches, the prefix tree, sampling, scoring."""
