"""The documentation site: its pages, their reference and pictures, and the check of the built pages' links."""
