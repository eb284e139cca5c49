"""The agent: poold's hands on a host. Standard library only, Python 3.9: it travels."""
