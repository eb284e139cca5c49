"""Pure values and their transitions; no I/O, no clock, no asyncio. Travels with the agent."""
