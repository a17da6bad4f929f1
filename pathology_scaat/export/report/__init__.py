"""The cohort's page and contact sheet."""
