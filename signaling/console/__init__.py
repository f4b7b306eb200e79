"""The web pages for people: the built-in call page (and, later, the operators' console). Server side only routes."""
