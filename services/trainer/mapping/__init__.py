"""A map of the dataset's texts: where a version puts them, in two dimensions, with neighbours and clusters."""
