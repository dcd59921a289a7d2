"""The programs that the panel lives in, behind one protocol. Nothing of a host is imported before it is asked for."""
