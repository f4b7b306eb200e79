"""The pages of the console, one file a subject; each has `routes(door)`."""
