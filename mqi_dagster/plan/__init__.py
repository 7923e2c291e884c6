"""The RT Ion Plan: reading it, and writing the reduced copy that an engine sees."""
