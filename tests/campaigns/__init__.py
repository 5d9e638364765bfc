"""Campaigns that look for the next fault: `make campaign` runs them at length, tests/test_campaigns.py briefly."""
