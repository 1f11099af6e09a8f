"""The options of every command: schemas, the sources they come from, and which value wins. No torch here."""
