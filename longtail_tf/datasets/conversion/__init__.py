"""From any source to shards with an index, in parallel and resumable."""
