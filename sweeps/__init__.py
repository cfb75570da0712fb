"""One file per experiment: a pipeline, a search space and an objective; each runs by itself."""
