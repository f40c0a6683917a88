"""Base against adapter: metrics, studies and comparisons."""
