"""The embedded engine: MCsquare behind moqui's contract (docs/physics.md 9)."""
