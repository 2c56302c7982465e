"""`python -m alexnet_mlflow STAGE`, as MLproject calls it."""

from alexnet_mlflow.cli import script

if __name__ == "__main__":
    script()
