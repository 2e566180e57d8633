"""The comparison of heads x modalities x seeds x folds."""
