"""HTML pages from jinja2 templates, with one style sheet, and the charts on them."""
