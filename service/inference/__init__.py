"""Who answers a request, and how that changes in every worker while requests flow."""
