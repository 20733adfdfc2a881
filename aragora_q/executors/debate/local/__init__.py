"""Small local models, for debates without a provider."""
