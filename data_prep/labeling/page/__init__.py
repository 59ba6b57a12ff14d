"""The page that people label in: `app.serve` opens it."""
