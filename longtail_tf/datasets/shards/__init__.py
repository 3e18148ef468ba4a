"""TFRecord shards: files, records, examples, and the index that finds a row in them."""
