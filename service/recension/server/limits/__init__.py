"""How much a licensee may ask and be served: rates, streams at once, quotas; exact across all processes."""
