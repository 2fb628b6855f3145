"""Recipes shipped with the package: each file defines `recipe`. Copy one, replace fields, `gato train FILE.py`."""
