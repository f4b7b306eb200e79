"""What the outside is told: webhooks. Delivers; never decides what happened."""
