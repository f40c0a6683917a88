"""From results to what people read: sentences, tables, plots, pages."""
