"""minildm: a textbook of latent diffusion that you can run. One small module per chapter; see README.md."""

__version__ = "0.1.0"
