"""The process that runs one model which somebody else brought; `runtimes.sandbox` starts it."""
