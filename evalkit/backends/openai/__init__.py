"""Models behind a server that speaks the OpenAI protocol; the client library is imported only when used."""
