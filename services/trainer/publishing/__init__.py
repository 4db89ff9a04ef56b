"""From a trained student to a version: write, measure, report, retain. May import training and evaluation."""
