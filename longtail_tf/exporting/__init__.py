"""What export writes: the serving module, its gates, server files and TFLite files."""
