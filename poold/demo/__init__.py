"""The article's story told with the real programs on two lab hosts, and measured."""
