"""The embedded engine: MCsquare behind moqui's contract (DESIGN 10, docs/engines.md)."""
