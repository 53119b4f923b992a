"""Routes that clients of OpenAI's API know."""
