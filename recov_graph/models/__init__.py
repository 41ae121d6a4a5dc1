"""Models: what the loop needs of one, and the pair that ships with the package."""
