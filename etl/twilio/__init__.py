"""The Conversations API over HTTP: pages out, no SQL in."""
