"""People and programs that use a site: what they may do, and how they prove who they are."""
