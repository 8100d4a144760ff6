"""StreamBP."""
