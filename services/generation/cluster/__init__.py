"""`generate --cluster`: one machine's pairs by a pool of engines on Ray; with `shared.ray_cluster`, the door to Ray."""
