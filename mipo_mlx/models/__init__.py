"""Open models and put adapters on them: the importer of mlx-lm."""
