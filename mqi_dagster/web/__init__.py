"""The pages: they show what `worklist` says and call what `operations` offers."""
