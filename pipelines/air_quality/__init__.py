"""Beijing's air tomorrow, in six classes of PM2.5."""
