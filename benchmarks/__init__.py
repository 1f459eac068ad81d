"""The project's own speed and size measurements, each one command."""
