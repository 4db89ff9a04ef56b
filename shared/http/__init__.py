"""What every service's HTTP has in common: app, middleware, problems, server. The one place that knows uvicorn."""
