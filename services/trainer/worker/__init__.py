"""The long-lived process: collects pairs and starts rounds as child processes. Imports no torch, directly or not."""
