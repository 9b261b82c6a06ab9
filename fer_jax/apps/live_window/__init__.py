"""The live window: threads that capture and recognise, mailboxes between them, and the Qt widgets that show it."""
