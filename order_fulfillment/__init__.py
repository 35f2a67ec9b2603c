"""The Temporal order fulfillment sample: payment, inventory, a human decision, delivery."""
