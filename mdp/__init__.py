"""mdp: a live market data platform for the whole US stock market."""

__version__ = "0.4.0"
