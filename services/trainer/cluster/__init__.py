"""The trainer's part on a Ray cluster. With `shared.ray_cluster` its one door to Ray."""
