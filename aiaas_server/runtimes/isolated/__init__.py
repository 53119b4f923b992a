"""The server's side of models that run in processes of their own."""
