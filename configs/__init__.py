"""The ground floor: YAML files that explain every key, and the loader that turns one into a typed struct."""
