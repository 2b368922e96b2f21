"""Adapters, merged one weight at a time as PEFT merges them."""
