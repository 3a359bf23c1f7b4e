"""loev: disentangled music embeddings, one subspace per thing you want to listen for."""

__version__ = "0.1.0"
