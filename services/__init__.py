"""The three services. Each runs with `python -m services.NAME` and meets the others only through `shared`."""
