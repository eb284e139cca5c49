"""How the daemon reaches its hosts' agents: in process, or over SSH."""
