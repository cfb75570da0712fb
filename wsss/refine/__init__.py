"""From score maps to better ones: dense CRF, pixel affinities, and the random walk along them."""
