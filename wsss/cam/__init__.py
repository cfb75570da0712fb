"""Class activation maps: classifiers that make them, and the score maps they become."""
