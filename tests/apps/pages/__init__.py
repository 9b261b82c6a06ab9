"""Tests of the HTML templates and of the charts."""
