"""What a person reads of a version: model card, report, plots. May import evaluation and dataset."""
