"""The search: slots of Ray Train workers, the Optuna study as the one record, Tune between them."""
