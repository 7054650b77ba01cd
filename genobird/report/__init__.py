"""Reports about models and scores, for people."""
