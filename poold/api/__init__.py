"""The HTTP API: a route table as data, views that know no HTTP, one adapter to aiohttp."""
