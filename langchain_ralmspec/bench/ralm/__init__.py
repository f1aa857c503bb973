"""RaLMSpec against its sequential loop."""
