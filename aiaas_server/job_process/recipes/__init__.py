"""Recipes that read texts and pictures as the server's tasks do."""
