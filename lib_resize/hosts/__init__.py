"""The programs that the tab runs in, behind one protocol. Nothing of a host is imported before it is needed."""
