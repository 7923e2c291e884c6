"""What a person can do with a site and its cases, whichever surface asks for it."""
