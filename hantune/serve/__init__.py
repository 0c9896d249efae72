"""Models over HTTP: OpenAI's API, the polling protocol ``/stream``, a chat page."""
