"""Where models lie: the repository on disk and the configuration files in it."""
