"""The operator's page: its parts lie beside this file, and are sent as one document."""
