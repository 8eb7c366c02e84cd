"""Our pages in Airflow's UI (docs/pages.md). The API server alone imports this package, for the first page."""
