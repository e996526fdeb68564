"""Reads all push-notification bindings of Twilio Conversations services into a SQL warehouse."""
