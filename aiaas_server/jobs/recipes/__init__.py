"""Recipes of training, one file each; others come by the entry points `aiaas.recipes`."""
