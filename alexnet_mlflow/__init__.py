"""The babysitting protocol for an image classifier, tracked in MLflow."""

__version__ = "0.1.0"
