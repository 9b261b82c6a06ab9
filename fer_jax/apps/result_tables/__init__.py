"""Tables and plots of the README and of docs/."""
