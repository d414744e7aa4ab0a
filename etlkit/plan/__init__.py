"""What the author says: expressions, pipelines, jobs. Nothing here reads data, and nothing heavy is imported."""
