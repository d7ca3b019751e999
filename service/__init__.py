"""The gateway: the OpenAI API over the router, with a cache, metrics and clear errors."""
