"""The SDK of AIaaS."""
