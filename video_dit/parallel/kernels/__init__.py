"""Attention of one device's queries to one device's keys, a file for each way."""
