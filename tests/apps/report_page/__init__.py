"""Tests of the parts of the report page."""
