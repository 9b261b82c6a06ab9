"""Live window: capture and recognition threads, the mailboxes between them, and the Qt widgets."""
