"""Tests of what is deployed: the compose file, the images and the manifests, without an engine or a cluster."""
