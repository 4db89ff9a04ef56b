"""The console: its page's files, the pass-through, and the page in a browser."""
