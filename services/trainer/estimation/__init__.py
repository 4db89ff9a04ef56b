"""The label-free estimate: what a student is worth on the user's own texts. May import models and evaluation."""
