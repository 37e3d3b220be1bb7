"""pass@k, step metrics, paired statistics, tables, plots and the HTML report."""
